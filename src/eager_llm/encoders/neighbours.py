"""Item-to-item evidence of both sources: what was chosen after an item, and what reads like it.

A generative model keeps of the log what its weights hold; counted evidence on a small log says more of
single pairs of items. Here it is kept as it was counted, for decoding to weigh beside the model.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, diags, vstack

from eager_llm.catalogue.counts import co_occurrence_counts
from eager_llm.errors import UserError
from eager_llm.files import whole_file
from eager_llm.progress import progress
from eager_llm.settings import NeighbourSettings

# What a block of rows of the items' likeness may hold where every item is like every other.
BLOCK_ENTRIES = 1 << 24
FILE = "neighbours.safetensors"
_TABLES = ("start", "item", "weight")
_FACTS = ("decay", "floor", "weight")


@dataclass(frozen=True)
class Neighbours:
    """For each item of the index, what speaks for the items that may follow it.

    Attributes:
        table: sparse float32 [items, items], rows and columns in the order of the index, none negative.
        decay: what an item of a history counts beside the next one.
        floor: share of the prior that all items have in common, evenly.
        weight: of the prior beside the model; see `decoding/prior.py`.
    """

    table: csr_matrix
    decay: float
    floor: float
    weight: float

    def evidence(self, histories: list[list[int]]) -> csr_matrix:
        """Sum the evidence of each history's items.

        Args:
            histories: item rows, oldest first.

        Returns:
            Sparse float [histories, items].
        """
        rows = [row for row, history in enumerate(histories) for _ in history]
        items = [item for history in histories for item in history]
        weights = [self.decay**gap for history in histories for gap in range(len(history) - 1, -1, -1)]
        interest = csr_matrix((weights, (rows, items)), shape=(len(histories), self.table.shape[0]), dtype=np.float32)
        return interest @ self.table

    def save(self, path: Path) -> None:
        """Write everything as one safetensors file."""
        from safetensors.numpy import save_file

        start, item = self.table.indptr.astype(np.int64), self.table.indices.astype(np.int32)
        tables = {"start": start, "item": item, "weight": self.table.data.astype(np.float32)}
        facts = {name: repr(getattr(self, name)) for name in _FACTS}
        with whole_file(path) as draft:
            save_file(tables, draft, facts)

    @classmethod
    def load(cls, path: Path, items: int) -> "Neighbours":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or damaged, or not of so many items.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                start, item, weight = (file.get_tensor(name) for name in _TABLES)
                facts = {name: float((file.metadata() or {})[name]) for name in _FACTS}
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise UserError(f"{path}: not readable as a table of neighbours: {error}") from None
        if len(start) != items + 1 or (len(item) and not 0 <= item.min() <= item.max() < items):
            raise UserError(f"{path}: neighbours of {len(start) - 1} items; the item index has {items}")
        return cls(csr_matrix((weight, item, start), shape=(items, items)), **facts)


def build_neighbours(
    histories: list[list[int]] | None, items: int, words: csr_matrix | None, settings: NeighbourSettings
) -> Neighbours:
    """Build the table from the training part and the items' words, or from one of them.

    Behaviour: counts of what followed at most `window` later, weighted by 1 / gap; what came before
    counts `backward` times; a row is divided by its sum to the power of `damping`, so that much-bought
    items do not shout. Words: how alike two items are, times `semantic_weight`. Each source keeps the
    `kept` strongest of an item.

    Args:
        histories: the training part of each user as item rows, oldest first, or None.
        words: of `item_words`, [items, words], or None.

    Returns:
        The table, with the first of `weights`; which one is best is for validation to say.
    """
    forward = co_occurrence_counts(histories or [], items, settings.window)
    counts = (forward + settings.backward * forward.T).tocsr()
    sums = np.asarray(counts.sum(axis=1)).ravel()
    counts = diags(np.where(sums > 0, np.maximum(sums, 1e-12) ** -settings.damping, 0)) @ counts
    table = _strongest(counts.tocsr(), settings.kept)
    if words is not None and settings.semantic_weight:
        table = table + settings.semantic_weight * _alike(words, settings.kept)
    return Neighbours(table.tocsr().astype(np.float32), settings.decay, settings.floor, settings.weights[0])


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
        own = np.repeat(np.arange(first, first + near.shape[0]), np.diff(near.indptr)) == near.indices
        near.data[own] = 0
        blocks.append(_strongest(near, kept))
    return vstack(blocks)
