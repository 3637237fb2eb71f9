"""The step evaluate_model."""
