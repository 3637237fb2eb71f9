"""Item-to-item evidence of both sources: what was chosen after an item, and what reads like it.

A generative model keeps of the log what its weights hold; counted or regressed evidence on a small log says more
of single pairs of items. Here it is kept as it is, for decoding to weigh beside the model.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, diags, vstack

from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file
from eager_llm.core.progress import progress
from eager_llm.item_prior.cooccurrence import cooccurrence_counts
from eager_llm.item_prior.ease import ease_weights
from eager_llm.settings import ItemPriorSettings

# What a block of rows of the items' likeness may hold where every item is like every other.
BLOCK_ENTRIES = 1 << 24
FILE = "item_prior.safetensors"
_TABLES = ("start", "item", "weight")
_FACTS = ("decays", "repeats", "floor", "weight")
# Steps of the log that say how often people go back to an item.
STEPS = 10_000


@dataclass(frozen=True)
class ItemPriorTable:
    """For each item of the index, what speaks for the items that may follow it.

    Attributes:
        table: sparse float32 [sources * items, items], the rows of one source after another, rows and
            columns in the order of the index, none negative.
        decays: for each source, what an item of a history counts beside the next one.
        repeats: what evidence counts that speaks for an item that the history has already.
        floor: share of the prior that all items have in common, evenly.
        weight: of the prior beside the model; see `decoding/prior.py`.
    """

    table: csr_matrix
    decays: tuple[float, ...]
    repeats: float
    floor: float
    weight: float

    def evidence(self, histories: list[list[int]]) -> csr_matrix:
        """Sum the evidence of each history's items.

        Args:
            histories: item rows, oldest first.

        Returns:
            Sparse float [histories, items].
        """
        count, width = self.table.shape
        rows, items = _flat(histories)
        gaps = np.array([gap for history in histories for gap in range(len(history) - 1, -1, -1)])
        weights = np.concatenate([np.float32(decay) ** gaps for decay in self.decays])
        columns = np.concatenate([items + width * source for source in range(len(self.decays))])
        places = (np.tile(rows, len(self.decays)), columns)
        found = (
            csr_matrix((weights, places), shape=(len(histories), count), dtype=np.float32)
            @ self.table
        )
        if self.repeats != 1 and len(items):
            found.data[_had(found, rows, items)] *= self.repeats
        return found

    def save(self, path: Path) -> None:
        """Write everything as one safetensors file."""
        from safetensors.numpy import save_file

        start, item = self.table.indptr.astype(np.int64), self.table.indices.astype(np.int32)
        tables = {"start": start, "item": item, "weight": self.table.data.astype(np.float32)}
        facts = {name: json.dumps(getattr(self, name)) for name in _FACTS}
        with whole_file(path) as draft:
            save_file(tables, draft, facts)

    @classmethod
    def load(cls, path: Path, items: int) -> "ItemPriorTable":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or damaged, or not of so many items.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                start, item, weight = (file.get_tensor(name) for name in _TABLES)
                facts = {name: json.loads((file.metadata() or {})[name]) for name in _FACTS}
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise UserError(f"{path}: not readable as a table of neighbours: {error}") from None
        decays = facts.pop("decays")
        rows = items * len(decays)
        if len(start) != rows + 1 or (len(item) and not 0 <= item.min() <= item.max() < items):
            known = (len(start) - 1) // max(1, len(decays))
            raise UserError(f"{path}: neighbours of {known} items; the item index has {items}")
        return cls(csr_matrix((weight, item, start), shape=(rows, items)), tuple(decays), **facts)


def build_item_prior(
    histories: list[list[int]],
    items: int,
    words: csr_matrix | None,
    settings: ItemPriorSettings,
    count: bool = True,
) -> ItemPriorTable:
    """Build the table from the training part and the items' words, or from one of them.

    Behaviour, by regression (`encoders/regression.py`) or counted: counts of what followed at most
    `window` later, weighted by 1 / gap ** `gap_power`; what came before counts `backward` times; a row is divided by
    its sum to the power of `damping`, so that much-bought items do not shout. Words: how alike two
    items are, times `semantic_weight`. Each source keeps the `kept` strongest of an item.

    Args:
        histories: the training part of each user as item rows, oldest first.
        words: of `item_tfidf`, [items, words], or None.
        count: whether behaviour is a source; it says in any case how often people go back to an item.

    Returns:
        The table, with the first of `weights`; which one is best is for validation to say.
    """
    tables, decays = [], []
    if count:
        source = _regression if settings.behaviour == "ease" else _counts
        tables.append(source(histories, items, settings))
        decays.append(settings.decay)
    if words is not None and settings.semantic_weight:
        tables.append(settings.semantic_weight * _alike(words, settings.top_items))
        decays.append(settings.semantic_decay)
    if not tables:  # nothing speaks for anything
        tables, decays = [csr_matrix((items, items))], [settings.decay]
    table = vstack(tables).tocsr().astype(np.float32)
    found = ItemPriorTable(table, tuple(decays), 1.0, settings.floor, settings.weights[0])
    return replace(found, repeats=_repeats(found, histories))


def _counts(histories: list[list[int]], items: int, settings: ItemPriorSettings) -> csr_matrix:
    forward = cooccurrence_counts(
        histories, items, settings.window, lambda gap: gap**-settings.gap_power
    )
    counts = (forward + settings.backward * forward.T).tocsr()
    sums = np.asarray(counts.sum(axis=1)).ravel()
    damped = (
        diags(np.where(sums > 0, np.maximum(sums, 1e-12) ** -settings.damping, 0)) @ counts
    ).tocsr()
    return _strongest(damped, settings.top_items)


def _regression(histories: list[list[int]], items: int, settings: ItemPriorSettings) -> csr_matrix:
    weights = ease_weights(histories, items, settings.ridge, settings.span)
    for row in weights:  # in place: nearly all entries go, those too that speak against an item
        least = (
            np.partition(row, -settings.top_items)[-settings.top_items]
            if settings.top_items < items
            else 0.0
        )
        row[row < max(least, 0.0)] = 0.0
    return csr_matrix(weights)


def _repeats(neighbours: ItemPriorTable, histories: list[list[int]]) -> float:
    """Return what makes the evidence speak for items of the history no more often than people go back to one.

    It is the ratio of the odds at the last steps of the training part: those of a step back to an
    item of the history, to those that the evidence gives it; at most 1. Where nobody ever went back,
    as in logs that keep each item once, it is next to nothing.
    """
    long = [history for history in histories if len(history) > 1]
    steps = long[:: max(1, len(long) // STEPS)]
    pasts = [history[:-1] for history in steps]
    if not steps:
        return 1.0
    every = neighbours.evidence(pasts)
    inside = every.copy()
    inside.data[~_had(every, *_flat(pasts))] = 0
    sums = np.asarray(every.sum(axis=1)).ravel()
    expected = (
        float((np.asarray(inside.sum(axis=1)).ravel()[sums > 0] / sums[sums > 0]).mean())
        if sums.any()
        else 0.0
    )
    if not 0 < expected < 1:
        return 1.0
    back = (sum(history[-1] in past for history, past in zip(steps, pasts, strict=True)) + 0.5) / (
        len(steps) + 1
    )
    return min(1.0, back / (1 - back) * (1 - expected) / expected)


def _had(evidence: csr_matrix, whose: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Say which entries speak for an item that the history, of `_flat`, has already: bool [entries]."""
    rows, columns = evidence.shape
    own = np.repeat(np.arange(rows), np.diff(evidence.indptr)) * columns + evidence.indices
    return np.isin(own, whose * columns + items)


def _flat(histories: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return whose each item is, and the item, both int64 [items of all histories]."""
    whose = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    return whose, np.array([item for history in histories for item in history], dtype=np.int64)


def _strongest(table: csr_matrix, kept: int) -> csr_matrix:
    """Drop all but the strongest entries of each row; which of several equal ones stay is not decided by item."""
    for row in np.flatnonzero(np.diff(table.indptr) > kept):
        part = slice(table.indptr[row], table.indptr[row + 1])
        weights = table.data[part]
        weights[weights < np.partition(weights, -kept)[-kept]] = 0
    table.eliminate_zeros()
    return table


def _alike(words: csr_matrix, kept: int) -> csr_matrix:
    items = words.shape[0]
    every, blocks = words.T.tocsr(), []
    rows = max(1, BLOCK_ENTRIES // items)
    for first in progress(range(0, items, rows), desc="items alike", unit="block"):
        near = (words[first : first + rows] @ every).tocsr()
        own = (
            np.repeat(np.arange(first, first + near.shape[0]), np.diff(near.indptr)) == near.indices
        )
        near.data[own] = 0
        blocks.append(_strongest(near, kept))
    return vstack(blocks)
