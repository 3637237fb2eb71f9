"""The model and its baselines on one split of the examples, side by side."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from eager_llm.decoding.recommender import Recommender
from eager_llm.evaluation.baselines import (
    Cooccurrence,
    Popularity,
    popularity_fallback,
    rank_by_prior,
)
from eager_llm.evaluation.methods import COOCCURRENCE, POPULARITY, PRIOR_ALONE
from eager_llm.evaluation.metrics import CUTOFFS, METRICS, ranking_metrics
from eager_llm.item_prior.table import ItemPriorTable

# Method -> metric -> value.
Table = dict[str, dict[str, float]]


def training_histories(examples: pd.DataFrame) -> list[list[str]]:
    """Return each user's training split, oldest first, from the training trajectories.

    A user's trajectories follow one another and share one item; they are joined at it.

    Args:
        examples: with the columns `user_id`, `item_id`, `moment`, `history` and `split`.
    """
    train = examples[examples["split"] == "train"]
    train = train.sort_values(["user_id", "moment"], kind="stable")
    columns = (train["user_id"], train["item_id"], train["history"])
    histories: dict[str, list[str]] = {}
    for user, item, history in zip(*columns, strict=True):
        trajectory = [*history, item]
        if user in histories:
            histories[user] += trajectory[1:]
        else:
            histories[user] = trajectory
    return list(histories.values())


def evaluate_model(
    recommender: Recommender, examples: pd.DataFrame, split: str, show: bool = True
) -> dict[str, float]:
    """Return the model's metrics on one split of the examples.

    Args:
        show: whether to show the progress.
    """
    rows = examples[examples["split"] == split]
    histories = rows["history"].map(list).tolist()
    targets = rows["item_id"].tolist()
    rankings: list[list[str]] = []
    for answer in recommender.recommend(histories, max(CUTOFFS), show):
        ranking = [item for item, _ in answer]
        rankings.append(ranking)
    return ranking_metrics(rankings, targets)


def choose_prior_weight(
    recommender: Recommender,
    prior: ItemPriorTable,
    examples: pd.DataFrame,
    weights: list[float],
) -> tuple[ItemPriorTable, dict[float, float]]:
    """Choose the weight of the item prior beside the model that is best on validation.

    The recommender keeps the prior that was tried last.

    Returns:
        The prior with the best weight, and the NDCG@10 of each weight.
    """
    ndcg: dict[float, float] = {}
    for weight in weights:
        recommender.set_item_prior(replace(prior, weight=weight))
        metrics = evaluate_model(recommender, examples, "validation", show=False)
        ndcg[weight] = metrics["ndcg@10"]
    best = max(ndcg, key=ndcg.__getitem__)
    return replace(prior, weight=best), ndcg


def evaluate_baselines(
    examples: pd.DataFrame,
    item_ids: list[str],
    split: str,
    seed: int,
    prior: ItemPriorTable | None = None,
) -> Table:
    """Return the metrics of the methods that need no model, fitted on the training split.

    Args:
        item_ids: the items in the order of the item index.
        prior: the item prior, to be measured alone; None leaves it out.
    """
    item_rows = {item: row for row, item in enumerate(item_ids)}
    train = _rows_of(training_histories(examples), item_rows)
    queries = examples[examples["split"] == split]
    histories = _rows_of(queries["history"], item_rows)
    items = len(item_ids)
    k = max(CUTOFFS)
    popularity = Popularity(train, items, seed)
    rankings: dict[str, np.ndarray] = {}
    if prior is not None:
        fallback = popularity_fallback(popularity.order)
        rankings[PRIOR_ALONE] = rank_by_prior(prior, fallback, histories, k)
    cooccurrence = Cooccurrence(train, items, seed)
    rankings[COOCCURRENCE] = cooccurrence.rank(histories, k)
    rankings[POPULARITY] = popularity.rank(histories, k)
    names = np.asarray(item_ids, dtype=object)
    targets = queries["item_id"].tolist()
    table: Table = {}
    for method, ranking in rankings.items():
        ranked_names = names[ranking].tolist()
        table[method] = ranking_metrics(ranked_names, targets)
    return table


def _rows_of(histories: Iterable[list[str]], item_rows: dict[str, int]) -> list[list[int]]:
    """Return histories of item ids as histories of item rows."""
    histories_of_rows: list[list[int]] = []
    for history in histories:
        rows = [item_rows[item] for item in history]
        histories_of_rows.append(rows)
    return histories_of_rows


def table_text(table: Table, split: str = "test") -> str:
    """Return the table of one split as aligned text, a row a method."""
    head = f"{split + ' split':<24}"
    for name in METRICS:
        head += f"{name:>11}"
    lines = [head]
    for method, row in table.items():
        line = f"{method:<24}"
        for name in METRICS:
            line += f"{row[name]:>11.4f}"
        lines.append(line)
    return "\n".join(lines)
