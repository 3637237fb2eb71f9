"""What the rows of the quality tables are called."""

MODEL_WITH_PRIOR = "EAGER-LLM + item prior"
MODEL = "EAGER-LLM"
PRIOR_ALONE = "item prior alone"
COOCCURRENCE = "co-occurrence"
POPULARITY = "popularity"
