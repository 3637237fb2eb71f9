"""The graphs of components, and where their steps run."""
