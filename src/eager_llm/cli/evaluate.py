"""The command line of a bundle's figures: eager-llm evaluate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eager_llm.cli.options import BundleOption, renamed
from eager_llm.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("user_id", "item_id", "history", "split", "moment")


def evaluate_command(
    examples: Annotated[
        Path,
        typer.Option(help="Parquet of user_id, item_id, history, split, moment"),
    ],
    bundle: BundleOption = Path("runs/demo/bundle"),
    split: Annotated[str, typer.Option(help="which split of the examples")] = "validation",
    earlier_split: Annotated[
        str,
        typer.Option("--part", hidden=True, callback=renamed("--split")),
    ] = "",
) -> None:
    """Measure a bundle beside co-occurrence and popularity, item-level over the whole catalogue.

    Example: eager-llm evaluate --examples examples.parquet --split test
    """
    from eager_llm.bundle.bundle import Bundle
    from eager_llm.evaluation.evaluate import evaluate_baselines, evaluate_model, table_text
    from eager_llm.evaluation.methods import MODEL_WITH_PRIOR

    split = earlier_split or split
    rows = _read_examples(examples, split)
    loaded = Bundle.load(bundle)
    recommender = loaded.recommender
    table = {MODEL_WITH_PRIOR: evaluate_model(recommender, rows, split)}
    seed = loaded.manifest["settings"]["seed"]
    item_ids = recommender.index.item_ids
    table |= evaluate_baselines(rows, item_ids, split, seed, recommender.item_prior)
    typer.echo(table_text(table, split))


def _read_examples(file: Path, split: str) -> "pd.DataFrame":
    """Read a table of examples.

    Raises:
        UserError: it is missing, a column is, or it has no example of the split.
    """
    from eager_llm.steps.examples import read_examples

    if not file.is_file():
        raise UserError(f"{file}: no such file; a run keeps its examples with its artifacts")
    examples = read_examples(file)
    missing = set(COLUMNS) - set(examples.columns)
    if missing:
        raise UserError(f"{file}: column {', '.join(sorted(missing))} is missing")
    splits = examples["split"].unique()
    if split not in splits:
        raise UserError(f"{file}: no examples of split {split!r}; there are {', '.join(splits)}")
    return examples
