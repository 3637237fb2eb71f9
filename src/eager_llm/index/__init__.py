"""The dual-source item index: balanced hierarchical k-means, one path of tokens an item."""
