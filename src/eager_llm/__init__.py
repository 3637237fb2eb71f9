"""EAGER-LLM on Kubernetes: a generative recommender from interaction log to serving bundle.

The rooms follow the data, and a later room may import an earlier one, never the reverse:
catalogue -> encoders -> index -> tuning -> decoding -> evaluation -> bundle -> steps -> cli.
"""

__version__ = "0.1.0"
