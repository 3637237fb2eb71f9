"""Compile the graphs for a cluster, and submit them."""
