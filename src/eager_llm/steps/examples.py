"""The table of examples, as `publish` writes it and every step on the model reads it."""

from pathlib import Path

import pandas as pd

from eager_llm.settings import Settings


def read_examples(path: Path) -> pd.DataFrame:
    """Read what `publish` wrote.

    Returns:
        The columns `user_id`, `item_id`, `moment`, `split`, `history`.
    """
    examples = pd.read_parquet(path)
    # The column's name in earlier versions.
    return examples.rename(columns={"part": "split"})


def validation_sample(examples: pd.DataFrame, users: int, seed: int) -> pd.DataFrame:
    """Draw validation examples at random: `users` of them, or all where there are fewer."""
    validation = examples[examples["split"] == "validation"]
    return validation.sample(min(users, len(validation)), random_state=seed)


def tuning_sample(examples: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Draw the validation examples that measure a model during its tuning."""
    return validation_sample(examples, settings.tuning.validation_users, settings.seed)
