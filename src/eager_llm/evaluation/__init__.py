"""Item-level quality over the whole catalogue, beside the baselines that any model must face."""
