"""The item prior as a table: which items follow an item in the log, and which have a text like it.

A generative model keeps of the log what its weights hold; on a small log, counts or a regression
say more of single pairs of items. This table holds them as they are, for decoding to weigh beside
the model.

Shapes: N items of the index, S sources, H histories, T items of all histories together.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file

FILE = "item_prior.safetensors"
_TABLES = ("start", "item", "weight")
_METADATA = ("decays", "repeats", "floor", "weight")


@dataclass(frozen=True)
class ItemPriorTable:
    """For each item of the index, how strongly other items are expected after it.

    Attributes:
        table: sparse float32 [S * N, N], the rows of one source after another, rows and columns in
            the order of the index, none negative.
        decays: for each source, what an item of a history counts beside the next one.
        repeats: factor of the scores of items that the history has already.
        floor: share of the prior that all items have in common, evenly.
        weight: of the prior beside the model; see `decoding/item_prior.py`.
    """

    table: csr_matrix
    decays: tuple[float, ...]
    repeats: float
    floor: float
    weight: float

    def scores(self, histories: list[list[int]]) -> csr_matrix:
        """Sum what each history's items say of the items that follow.

        Args:
            histories: item rows, oldest first.

        Returns:
            Sparse float32 [H, N].
        """
        table_rows, items = self.table.shape
        sources = len(self.decays)
        history_rows, history_items = flatten_histories(histories)
        gaps = _gaps_to_end(histories)
        weights = []
        columns = []
        for source, decay in enumerate(self.decays):
            weights.append(np.float32(decay) ** gaps)
            columns.append(history_items + items * source)
        rows = np.tile(history_rows, sources)
        coordinates = (rows, np.concatenate(columns))
        weighted_histories = csr_matrix(
            (np.concatenate(weights), coordinates),
            shape=(len(histories), table_rows),
            dtype=np.float32,
        )
        scores = weighted_histories @ self.table
        if self.repeats != 1 and len(history_items):
            in_history = is_in_history(scores, history_rows, history_items)
            scores.data[in_history] *= self.repeats
        return scores

    def save(self, path: Path) -> None:
        """Write everything as one safetensors file."""
        from safetensors.numpy import save_file

        tables = {
            "start": self.table.indptr.astype(np.int64),
            "item": self.table.indices.astype(np.int32),
            "weight": self.table.data.astype(np.float32),
        }
        metadata = {}
        for name in _METADATA:
            metadata[name] = json.dumps(getattr(self, name))
        with whole_file(path) as draft:
            save_file(tables, draft, metadata)

    @classmethod
    def load(
        cls,
        path: Path,
        items: int,
    ) -> "ItemPriorTable":
        """Read what `save` wrote.

        Args:
            items: of the index.

        Raises:
            UserError: the file is missing or damaged, or not of so many items.
        """
        tables, metadata = _read_file(path)
        start = tables["start"]
        item = tables["item"]
        decays = tuple(metadata.pop("decays"))
        rows = items * len(decays)
        has_other_items = len(item) and not 0 <= item.min() <= item.max() < items
        if len(start) != rows + 1 or has_other_items:
            items_of_file = (len(start) - 1) // max(1, len(decays))
            raise UserError(
                f"{path}: an item prior of {items_of_file} items; the item index has {items}"
            )
        table = csr_matrix((tables["weight"], item, start), shape=(rows, items))
        return cls(table=table, decays=decays, **metadata)

    def with_repeats(self, repeats: float) -> "ItemPriorTable":
        """Return the same table with another factor of items that a history has already."""
        return replace(self, repeats=repeats)


def flatten_histories(histories: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the history of each item, and the item, both int64 [T]."""
    lengths = [len(history) for history in histories]
    history_rows = np.repeat(np.arange(len(histories)), lengths)
    items = [item for history in histories for item in history]
    return history_rows, np.array(items, dtype=np.int64)


def is_in_history(
    scores: csr_matrix,
    history_rows: np.ndarray,
    history_items: np.ndarray,
) -> np.ndarray:
    """Tell which entries of scores are of an item that the history has already, bool [entries].

    Args:
        scores: [H, N].
        history_rows: the history of each item, int64 [T]; see `flatten_histories`.
        history_items: int64 [T].
    """
    histories, items = scores.shape
    entry_rows = np.repeat(np.arange(histories), np.diff(scores.indptr))
    entries = entry_rows * items + scores.indices
    return np.isin(entries, history_rows * items + history_items)


def _gaps_to_end(histories: list[list[int]]) -> np.ndarray:
    """Return how many items come after each one in its history, [T]."""
    gaps: list[int] = []
    for history in histories:
        gaps.extend(range(len(history) - 1, -1, -1))
    return np.array(gaps)


def _read_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the metadata of a file of an item prior."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            tables = {name: file.get_tensor(name) for name in _TABLES}
            content = file.metadata() or {}
            metadata = {name: json.loads(content[name]) for name in _METADATA}
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as an item prior: {error}") from None
    return tables, metadata
