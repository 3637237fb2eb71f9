"""Two bundles on the same test split: their recommendations, their language, their speed."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from eager_llm.bundle.bundle import Bundle
from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.evaluation.evaluate import Table, evaluate_baselines
from eager_llm.evaluation.metrics import CUTOFFS, gains, ranking_metrics, target_ranks
from eager_llm.release.checks import Check, check_of
from eager_llm.release.language_checks import compare_language
from eager_llm.release.latency_check import compare_latency
from eager_llm.settings import PromotionSettings

RUNNING = "running bundle"
NEW = "new bundle"


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        checks: every measure that decides.
        table: recall and NDCG of both bundles and of the baselines, over all targets of the test
            split.
        new_items: figures on the items that the running bundle does not know; see
            `_new_item_figures`.
    """

    checks: list[Check]
    table: Table
    new_items: dict[str, float] = field(default_factory=dict)


def compare(
    running: Bundle, new: Bundle, examples: pd.DataFrame, settings: PromotionSettings, seed: int
) -> Comparison:
    """Measure both bundles on the test split of the examples.

    Each answers as its service would: items of a history that a bundle does not know are left out,
    and its fallback answers where nothing is left. An item that a bundle does not know is a miss.

    Args:
        examples: `user_id`, `item_id`, `moment`, `history`, `split`; items of the new bundle's
            index.

    Raises:
        UserError: there is no test split.
    """
    test = examples[examples["split"] == "test"]
    if test.empty:
        raise UserError("there is no test split to compare the bundles on")
    targets = test["item_id"].tolist()
    histories = test["history"].map(list).tolist()
    rankings = {RUNNING: ranking(running, histories), NEW: ranking(new, histories)}
    table: Table = {}
    for name, answers in rankings.items():
        table[name] = ranking_metrics(answers, targets)
    item_ids = new.recommender.index.item_ids
    table |= evaluate_baselines(examples, item_ids, "test", seed)
    in_both = test["item_id"].isin(running.recommender.index.rows).to_numpy()
    users = test["user_id"].to_numpy()
    checks = [
        *_ranking_checks(rankings, targets, users, in_both, settings, seed),
        *compare_language(running, new, settings, seed),
        compare_latency(running, new, histories, settings, seed),
    ]
    for check in checks:
        say(str(check))
    figures = _new_item_figures(rankings[NEW], targets, in_both, running)
    return Comparison(checks, table, figures)


def ranking(bundle: Bundle, histories: list[list[str]]) -> list[list[str]]:
    """Return the first items for each history, as the bundle's service answers."""
    rows = bundle.recommender.index.rows
    k = max(CUTOFFS)
    fallback = bundle.fallback[:k]
    rankings = [fallback for _ in histories]
    numbers: list[int] = []
    usable: list[list[str]] = []
    for number, history in enumerate(histories):
        items = [item for item in history if item in rows]
        if items:
            numbers.append(number)
            usable.append(items)
    answers = bundle.recommender.recommend(usable, k, show=True)
    for number, answer in zip(numbers, answers, strict=True):
        rankings[number] = [item for item, _ in answer]
    return rankings


def _ranking_checks(
    rankings: dict[str, list[list[str]]],
    targets: list[str],
    users: np.ndarray,
    in_both: np.ndarray,
    settings: PromotionSettings,
    seed: int,
) -> Iterator[Check]:
    """Check the metric over all targets, and over the items that both bundles know.

    Args:
        users: [targets], who chose each target.
        in_both: bool [targets], whether the running bundle knows the target, too.
    """
    metric = settings.metric
    new = gains(target_ranks(rankings[NEW], targets), metric)
    running = gains(target_ranks(rankings[RUNNING], targets), metric)
    subsets = {
        metric: np.ones(len(in_both), dtype=bool),
        f"{metric}, items that both know": in_both,
    }
    for name, rows in subsets.items():
        if rows.any():
            yield check_of(
                name,
                new[rows],
                running[rows],
                sizes=np.ones(rows.sum()),
                units=users[rows],
                unit_name="users",
                tolerance=settings.tolerance,
                settings=settings,
                seed=seed,
            )


def _new_item_figures(
    answers: list[list[str]], targets: list[str], in_both: np.ndarray, running: Bundle
) -> dict[str, float]:
    """Return how often items that the running bundle does not know are targets, hits and answers.

    Args:
        answers: of the new bundle.
        in_both: bool [targets], whether the running bundle knows the target.
    """
    rows = running.recommender.index.rows
    recommended: set[str] = set()
    answers_with_new = 0
    for answer in answers:
        new_items = [item for item in answer if item not in rows]
        recommended.update(new_items)
        answers_with_new += bool(new_items)
    hits: list[bool] = []
    for answer, target, is_old in zip(answers, targets, in_both, strict=True):
        if not is_old:
            hits.append(target in answer)
    return {
        "targets": len(hits),
        "recall@10": float(np.mean(hits)) if hits else 0.0,
        "items recommended": len(recommended),
        "share of answers with one": answers_with_new / len(answers),
    }
