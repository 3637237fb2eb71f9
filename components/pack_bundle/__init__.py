"""The step pack_bundle."""
