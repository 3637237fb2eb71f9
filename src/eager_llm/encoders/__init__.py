"""The two knowledge sources of an item: how people behave around it, and what its text says."""
