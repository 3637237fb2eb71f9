"""The step tune_model."""
