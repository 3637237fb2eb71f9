"""The BentoML service over one bundle."""
