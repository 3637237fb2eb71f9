"""The images that the steps run in: the one place that names them."""

REGISTRY = "eager-llm"
TAG = "0.1.0"

PYTHON_DATA = f"{REGISTRY}/python-data:{TAG}"
PYTHON_TRAINING = f"{REGISTRY}/python-training:{TAG}"
