"""Kubeflow components, one folder a step: each is the interface of one of `eager_llm.steps`."""
