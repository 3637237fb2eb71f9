"""Constrained decoding: only existing items, each once, best first."""
