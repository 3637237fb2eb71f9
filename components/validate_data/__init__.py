"""The step validate_data."""
