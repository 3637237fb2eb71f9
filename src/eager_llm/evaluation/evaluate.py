"""The model and its baselines on one split of one split, side by side."""

from dataclasses import replace

import numpy as np
import pandas as pd

from eager_llm.decoding.recommender import Recommender
from eager_llm.evaluation.baselines import (
    Cooccurrence,
    Popularity,
    popularity_fallback,
    rank_by_evidence,
)
from eager_llm.evaluation.methods import COOCCURRENCE, POPULARITY, PRIOR_ALONE
from eager_llm.evaluation.metrics import CUTOFFS, ranking_metrics
from eager_llm.item_prior.table import ItemPriorTable

Table = dict[str, dict[str, float]]


def training_histories(examples: pd.DataFrame) -> list[list[str]]:
    """Return each user's training split, oldest first, from the training trajectories.

    A user's trajectories follow one another and share one item; they are joined at it.
    """
    train = examples[examples["split"] == "train"].sort_values(["user_id", "moment"], kind="stable")
    histories: dict[str, list[str]] = {}
    for user, item, history in zip(
        train["user_id"], train["item_id"], train["history"], strict=True
    ):
        window = [*history, item]
        if user in histories:
            histories[user] += window[1:]
        else:
            histories[user] = list(window)
    return list(histories.values())


def evaluate_model(
    recommender: Recommender, examples: pd.DataFrame, split: str, show: bool = True
) -> dict[str, float]:
    """Return the model's metrics on one split of the examples."""
    asked = examples[examples["split"] == split]
    ranked = recommender.recommend(asked["history"].map(list).tolist(), max(CUTOFFS), show)
    return ranking_metrics([[item for item, _ in row] for row in ranked], asked["item_id"].tolist())


def choose_prior_weight(
    recommender: Recommender,
    neighbours: ItemPriorTable,
    examples: pd.DataFrame,
    weights: list[float],
) -> tuple[ItemPriorTable, dict[float, float]]:
    """Return the evidence with the weight beside the model that is best on validation, and NDCG@10 there for each."""
    tried = {}
    for weight in weights:
        recommender.weigh(replace(neighbours, weight=weight))
        tried[weight] = evaluate_model(recommender, examples, "validation", show=False)["ndcg@10"]
    return replace(neighbours, weight=max(tried, key=tried.__getitem__)), tried


def evaluate_baselines(
    examples: pd.DataFrame,
    item_ids: list[str],
    split: str,
    seed: int,
    neighbours: ItemPriorTable | None = None,
) -> Table:
    """Return the metrics of what needs no model, counted on the training part.

    Args:
        neighbours: the evidence that is weighed beside a model, to be measured alone; None: left out.
    """
    rows = {item: row for row, item in enumerate(item_ids)}
    train = [[rows[item] for item in history] for history in training_histories(examples)]
    asked = examples[examples["split"] == split]
    histories = [[rows[item] for item in history] for history in asked["history"]]
    table = {}
    popularity, k = Popularity(train, len(item_ids), seed), max(CUTOFFS)
    rankings = {
        COOCCURRENCE: Cooccurrence(train, len(item_ids), seed).rank(histories, k),
        POPULARITY: popularity.rank(histories, k),
    }
    if neighbours is not None:
        fallback = popularity_fallback(popularity.order)
        rankings = {
            PRIOR_ALONE: rank_by_evidence(neighbours, fallback, histories, k),
            **rankings,
        }
    for name, ranked in rankings.items():
        ids = np.asarray(item_ids, dtype=object)[ranked].tolist()
        table[name] = ranking_metrics(ids, asked["item_id"].tolist())
    return table


def table_text(table: Table, split: str = "test") -> str:
    """Return the table of one split as aligned text, a row a method."""
    columns = [f"{kind}@{k}" for kind in ("recall", "ndcg") for k in CUTOFFS]
    lines = [f"{split + ' part':<24}" + "".join(f"{name:>11}" for name in columns)]
    lines += [
        f"{name:<24}" + "".join(f"{row[c]:>11.4f}" for c in columns) for name, row in table.items()
    ]
    return "\n".join(lines)
