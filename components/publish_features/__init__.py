"""The step publish_features."""
