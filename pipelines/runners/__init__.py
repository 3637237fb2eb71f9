"""Runners of the graphs on this machine."""
