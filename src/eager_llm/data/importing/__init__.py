"""Bring logs of any format, from files or databases, into the tables."""
