"""The causal language model: loading, hidden states, logits, the adapter."""
