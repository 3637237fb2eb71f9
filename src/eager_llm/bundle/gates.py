"""The gates of a bundle, run before it is handed on: whole, able to name every item, and as good as was accepted."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.bundle.layout import METRICS, TRIE, read_metrics
from eager_llm.bundle.verify import bundle_faults
from eager_llm.core.duckdb_engine import engine
from eager_llm.core.errors import UserError
from eager_llm.decoding.trie import Trie
from eager_llm.index.item_index import ItemIndex
from eager_llm.prompts.builder import item_tokens
from eager_llm.settings import AcceptanceSettings
from eager_llm.validation.expectations import bundle_gates
from eager_llm.validation.gates import GateResult, judge

SPLITS = ("validation", "test")


def run_bundle_gates(
    folder: Path, settings: AcceptanceSettings, quarantine: Path | None = None
) -> list[GateResult]:
    """Check a bundle.

    Args:
        quarantine: folder for the rows that break a gate.

    Raises:
        UserError: it has no readable index, or `acceptance.baseline` is no bundle.
    """
    from transformers import AutoTokenizer

    index = ItemIndex.load(folder / "item_index.parquet")
    tokens = item_tokens(AutoTokenizer.from_pretrained(folder / "tokenizer"), index)
    accepted = _metrics(Path(settings.baseline), "acceptance.baseline") if settings.baseline else []
    tables = {
        "files": pd.DataFrame({"fault": pd.Series(bundle_faults(folder), dtype="str")}),
        "items": pd.DataFrame({"item_id": index.item_ids}),
        "catalogue": pd.read_parquet(folder / "catalogue.parquet", columns=["item_id"]),
        "fallback": pd.read_parquet(folder / "fallback.parquet", columns=["item_id"]),
        "lost": lost_items(index.item_ids, tokens, Trie.load(folder / TRIE)),
        "metrics": _frame(_metrics(folder, "metrics")),
        "accepted": _frame(accepted),
    }
    with engine() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        return judge(connection, bundle_gates(settings), settings.waived, quarantine)


def lost_items(item_ids: list[str], tokens: np.ndarray, trie: Trie) -> pd.DataFrame:
    """Walk the trie by every item's tokens, and return those that do not end at their own item.

    Args:
        tokens: int [items, levels], each item's token ids.

    Returns:
        `item_id` and `found`: the item at the end of the walk, or how far it went.
    """
    first_child, labels = trie.first_child.numpy(), trie.label.numpy()
    nodes, wanted = np.zeros(len(tokens), dtype=np.int64), _labels(tokens, trie)
    reached = np.zeros(len(tokens), dtype=np.int64)
    for level in range(trie.depth):
        going = reached == level
        # The children of a node lie side by side, their labels rising: bisect all nodes at once.
        low, end = first_child[nodes], first_child[nodes + 1]
        high = end.copy()
        while (low < high).any():
            middle = (low + high) // 2
            less = (labels[np.minimum(middle, len(labels) - 1)] < wanted[:, level]) & (low < high)
            low, high = (
                np.where(less, middle + 1, low),
                np.where(less | (low >= high), high, middle),
            )
        hit = going & (low < end) & (labels[np.minimum(low, len(labels) - 1)] == wanted[:, level])
        reached += hit
        nodes = np.where(hit, low, 0)
    leaf = np.where(reached == trie.depth, nodes - trie.level_start[trie.depth], 0)
    found = trie.leaf_item.numpy()[leaf]
    tail = (trie.tail.numpy()[leaf] == wanted[:, trie.depth :]).all(axis=1)
    lost = np.flatnonzero((reached < trie.depth) | (found != np.arange(len(tokens))) | ~tail)
    ends = [
        f"no item: left the trie after {reached[row]} tokens" if reached[row] < trie.depth
        else f"item {item_ids[found[row]]}" if tail[row] else "no item: its last tokens are others"
        for row in lost
    ]  # fmt: skip
    return pd.DataFrame({"item_id": [item_ids[row] for row in lost], "found": ends}, dtype="str")


def _labels(tokens: np.ndarray, trie: Trie) -> np.ndarray:
    """Return each token's label in its level; -1 where the level has no such token."""
    columns = []
    for level, known in enumerate(trie.tokens):
        place = np.searchsorted(known.numpy(), tokens[:, level]).clip(max=len(known) - 1)
        columns.append(np.where(known.numpy()[place] == tokens[:, level], place, -1))
    return np.stack(columns, axis=1)


def _metrics(folder: Path, what: str) -> list[tuple[str, str, str, float]]:
    """Return part, method, metric and value of the recommendations that were measured."""
    if not (folder / METRICS).is_file():
        raise UserError(f"{what}: {folder} holds no {METRICS}; name a bundle")
    table: dict[str, Any] = read_metrics(folder)
    return [
        (part, method, metric, math.nan if value is None else float(value))
        for part in SPLITS for method, row in table.get(part, {}).items() for metric, value in row.items()
    ]  # fmt: skip


def _frame(rows: list[tuple[str, str, str, float]]) -> pd.DataFrame:
    types = {"split": "str", "method": "str", "metric": "str", "value": "float64"}
    return pd.DataFrame(rows, columns=list(types)).astype(types)
