"""Evidence from item to item, which is weighed beside the model."""
