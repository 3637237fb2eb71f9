"""Kubeflow components, one folder a step: the interface only, over `eager_llm.steps`."""
