"""Two bundles on the same test part: what they recommend, what they kept of language, how long they take."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from eager_llm.backbone.loading import held_out_items
from eager_llm.bundle.bundle import Bundle
from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.decoding.recommender import Request
from eager_llm.evaluation.evaluate import Table, evaluate_baselines
from eager_llm.evaluation.language import MEASURES, LanguageProbe
from eager_llm.evaluation.metrics import CUTOFFS, gains, ranking_metrics, target_places
from eager_llm.evaluation.paired import paired_difference
from eager_llm.settings import PromotionSettings

RUNNING, NEW = "running bundle", "new bundle"
WARM_UP = 3  # answers before the watch is started
TURNS = 3  # of each timed answer; the fastest counts, as what else the machine does only adds


@dataclass(frozen=True)
class Check:
    """One measure of both bundles.

    Attributes:
        name: what is measured.
        running, new: its values.
        worst: the change as a share of `running`, negative where the new one is worse, at the far end of its
            confidence interval (for times, at the near end); shares of right answers, which may be next to none, change in points of 1.
        tolerance: how much of that may be lost.
        units: what chance was drawn from, such as "402 users".
    """

    name: str
    running: float
    new: float
    worst: float
    tolerance: float
    units: str

    @property
    def passed(self) -> bool:
        """Whether no loss beyond the tolerance is to be feared."""
        return bool(self.worst >= -self.tolerance)

    @property
    def reason(self) -> str:
        """Say why it did not pass."""
        return (
            f"{self.name}: {self.new:.4g} after {self.running:.4g}; chance allows a loss of {-self.worst:.1%}, "
            f"the tolerance is {self.tolerance:.1%} ({self.units})"
        )


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        checks: every measure that decides.
        table: recall and NDCG of both, and of what needs no model, over all targets of the test part.
        new_items: what became of the items that the running bundle does not know; see `_new_items`.
    """

    checks: list[Check]
    table: Table
    new_items: dict[str, float] = field(default_factory=dict)


def compare(
    running: Bundle, new: Bundle, examples: pd.DataFrame, settings: PromotionSettings, seed: int
) -> Comparison:
    """Measure both bundles on the test part of the examples.

    Each answers as its service would: items of a history that a bundle does not know are left out, and its fallback
    ranking answers where nothing is left. An item that a bundle does not know is a miss.

    Args:
        examples: `user_id`, `item_id`, `moment`, `history`, `part`; items of the new bundle's index.

    Raises:
        UserError: there is no test part.
    """
    asked = examples[examples["split"] == "test"]
    if asked.empty:
        raise UserError("there is no test part to compare the bundles on")
    targets, users = asked["item_id"].tolist(), asked["user_id"].to_numpy()
    histories = asked["history"].map(list).tolist()
    ranked = {name: ranking(bundle, histories) for name, bundle in ((RUNNING, running), (NEW, new))}
    table = {name: ranking_metrics(found, targets) for name, found in ranked.items()}
    rivals = evaluate_baselines(examples, new.recommender.index.item_ids, "test", seed)
    gained = {
        name: gains(target_places(found, targets), settings.metric)
        for name, found in ranked.items()
    }
    known = asked["item_id"].isin(running.recommender.index.rows).to_numpy()
    checks = []
    for name, chosen in (
        (settings.metric, np.ones(len(known), dtype=bool)),
        (f"{settings.metric}, items that both know", known),
    ):
        if chosen.any():
            pair = (gained[NEW][chosen], gained[RUNNING][chosen])
            checks.append(
                _check(
                    name,
                    *pair,
                    np.ones(chosen.sum()),
                    users[chosen],
                    settings.tolerance,
                    settings,
                    seed,
                    "users",
                )
            )
    checks += _language(running, new, settings, seed)
    checks.append(_latency(running, new, histories, settings, seed))
    for check in checks:
        say(
            f"{'passed' if check.passed else 'FAILED'}: {check.name}: {check.running:.4g} -> {check.new:.4g}, at worst {check.worst:+.1%}"
        )
    return Comparison(checks, {**table, **rivals}, _new_items(ranked[NEW], targets, known, running))


def ranking(bundle: Bundle, histories: list[list[str]]) -> list[list[str]]:
    """Return the first items for each history, as the bundle's service answers."""
    rows, k = bundle.recommender.index.rows, max(CUTOFFS)
    read = [[item for item in history if item in rows] for history in histories]
    usable = [number for number, history in enumerate(read) if history]
    found = [bundle.fallback[:k] for _ in read]
    answers = bundle.recommender.recommend([read[number] for number in usable], k, show=True)
    for number, answer in zip(usable, answers, strict=True):
        found[number] = [item for item, _ in answer]
    return found


def _check(
    name: str, new: np.ndarray, running: np.ndarray, sizes: np.ndarray, units: np.ndarray, tolerance: float,
    settings: PromotionSettings, seed: int, what: str, more_is_better: bool = True, points: bool = False,
) -> Check:  # fmt: skip
    """Compare two measures case by case; see `paired_difference`.

    Args:
        points: whether the change is told as it is, not as a share of the running bundle's value.
    """
    found = paired_difference(
        new, running, sizes, units, settings.resamples, settings.confidence, seed
    )
    loss = found.low if more_is_better else -found.high
    scale = 1.0 if points else found.second
    worst = loss / scale if scale else (0.0 if loss >= 0 else -np.inf)
    return Check(name, found.second, found.first, float(worst), tolerance, f"{found.units} {what}")


def _language(running: Bundle, new: Bundle, settings: PromotionSettings, seed: int) -> list[Check]:
    """Compare what both read and write with the adapter off, asked about the same items.

    Perplexity is by character, not by token: another tokenizer cuts the same text into other tokens.
    """
    both = [
        item for item in running.recommender.index.item_ids if item in new.recommender.index.rows
    ]
    held_out = [set(held_out_items(bundle.folder)) for bundle in (running, new)]
    asked = running.manifest["settings"]["tuning"]["language_items"]
    probes = [LanguageProbe(bundle.text_recommender.book, 0, seed) for bundle in (running, new)]
    rng = np.random.default_rng(seed)
    shuffled = [
        both[row] for row in rng.permutation(len(both)) if running.items.loc[both[row], "title"]
    ]
    known = [item for item in shuffled if not any(item in items for items in held_out)][:asked]
    unseen = [item for item in shuffled if all(item in items for items in held_out)][:asked]
    for probe, bundle in zip(probes, (running, new), strict=True):
        probe.known, probe.unseen = (
            [bundle.recommender.index.rows[i] for i in items] for items in (known, unseen)
        )
    checks: list[Check] = []
    tolerance = settings.language_tolerance
    old_answers, new_answers = (
        p.answers(b.plain) for p, b in zip(probes, (running, new), strict=True)
    )
    items, ones = np.arange(len(known)), np.ones(len(known))
    checks += [
        _check(
            name,
            new_answers[name],
            old,
            ones,
            items,
            tolerance,
            settings,
            seed,
            "items",
            points=True,
        )
        for name, old in old_answers.items()
    ]
    if unseen:
        old, now = (
            p.negative_log_likelihood(b.plain) for p, b in zip(probes, (running, new), strict=True)
        )
        name = f"{MEASURES[2]}, log by character"
        units = np.arange(len(unseen))
        checks.append(
            _check(
                name,
                now[0],
                old[0],
                old[2],
                units,
                tolerance,
                settings,
                seed,
                "texts",
                more_is_better=False,
            )
        )
    return checks


def _latency(
    running: Bundle, new: Bundle, histories: list[list[str]], settings: PromotionSettings, seed: int
) -> Check:
    """Time the same single answers by both in turn, and compare the medians.

    The bound is that of the ratio of medians over requests drawn anew, both bundles' times of a request together;
    its near end: what else the machine does slows either, and only a loss that is certain says something of the bundle.
    """
    rng = np.random.default_rng(seed)
    chosen = [
        histories[row] for row in rng.permutation(len(histories))[: settings.latency_requests]
    ]
    times = np.full((2, len(chosen)), np.inf)
    ways = [_asker(bundle) for bundle in (running, new)]
    for ask in ways:
        for history in chosen[:WARM_UP]:
            ask(history)
    for _ in range(TURNS):
        for number, history in enumerate(chosen):
            for way, ask in enumerate(ways):
                started = time.perf_counter()
                ask(history)
                times[way, number] = min(times[way, number], time.perf_counter() - started)
    drawn = rng.integers(0, len(chosen), (settings.resamples, len(chosen)))
    old, now = np.median(times[0][drawn], axis=1), np.median(times[1][drawn], axis=1)
    surely = float(np.quantile(now / old, 1 - settings.confidence))
    values = [float(np.median(row)) * 1000 for row in times]
    return Check(
        "milliseconds an answer, median",
        values[0],
        values[1],
        1 - surely,
        settings.latency_tolerance,
        f"{len(chosen)} requests",
    )


def _asker(bundle: Bundle) -> Callable[[list[str]], object]:
    """Return what answers one history by itself, nothing remembered of earlier ones."""
    fresh = bundle.recommender.again()
    fresh.prefixes = None

    def ask(history: list[str]) -> object:
        return fresh.answer([Request([item for item in history if item in fresh.index.rows])])

    return ask


def _new_items(
    ranked: list[list[str]], targets: list[str], known: np.ndarray, running: Bundle
) -> dict[str, float]:
    """Return of the items that the running bundle does not know: how many were asked for and found, how often answered."""
    rows = running.recommender.index.rows
    hits = [
        target in row
        for row, target, is_known in zip(ranked, targets, known, strict=True)
        if not is_known
    ]
    answered = {item for row in ranked for item in row if item not in rows}
    shown = sum(any(item not in rows for item in row) for row in ranked)
    return {
        "targets": len(hits), "recall@10": float(np.mean(hits)) if hits else 0.0,
        "items recommended": len(answered), "share of answers with one": shown / len(ranked),
    }  # fmt: skip
