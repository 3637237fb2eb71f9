"""The graph over the components, its parameter sets, and the manifests that kubectl applies."""
