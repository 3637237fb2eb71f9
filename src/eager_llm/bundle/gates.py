"""The gates of a bundle, run before it is handed on.

Its files are whole, it can name every item, and it is as good as the accepted bundle.
"""

import math
from pathlib import Path

import pandas as pd

from eager_llm.bundle.layout import CATALOGUE, FALLBACK, ITEM_INDEX, METRICS, TRIE, read_metrics
from eager_llm.bundle.trie_check import lost_items
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
METRIC_COLUMNS = {"split": "str", "method": "str", "metric": "str", "value": "float64"}


def run_bundle_gates(
    folder: Path, settings: AcceptanceSettings, quarantine: Path | None = None
) -> list[GateResult]:
    """Check a bundle.

    Args:
        quarantine: folder for the rows that break a gate; None: they are only named.

    Raises:
        UserError: the bundle has no readable index, or `acceptance.baseline` is no bundle.
    """
    tables = _tables(folder)
    tables["accepted"] = _metric_table([])
    if settings.baseline:
        tables["accepted"] = _read_metric_table(Path(settings.baseline), "acceptance.baseline")
    with engine() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        return judge(connection, bundle_gates(settings), settings.waived, quarantine)


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return what the gates ask of the bundle; see `bundle_gates`."""
    from transformers import AutoTokenizer

    index = ItemIndex.load(folder / ITEM_INDEX)
    tokens = item_tokens(AutoTokenizer.from_pretrained(folder / "tokenizer"), index)
    return {
        "files": pd.DataFrame({"fault": pd.Series(bundle_faults(folder), dtype="str")}),
        "items": pd.DataFrame({"item_id": index.item_ids}),
        "catalogue": pd.read_parquet(folder / CATALOGUE, columns=["item_id"]),
        "fallback": pd.read_parquet(folder / FALLBACK, columns=["item_id"]),
        "lost": lost_items(index.item_ids, tokens, Trie.load(folder / TRIE)),
        "metrics": _read_metric_table(folder, "metrics"),
    }


def _read_metric_table(folder: Path, name: str) -> pd.DataFrame:
    """Return split, method, metric and value of the recommendations that were measured.

    Args:
        name: what the folder is, for the error.

    Raises:
        UserError: the folder is no bundle.
    """
    if not (folder / METRICS).is_file():
        raise UserError(f"{name}: {folder} holds no {METRICS}; name a bundle")
    metrics = read_metrics(folder)
    rows: list[tuple[str, str, str, float]] = []
    for split in SPLITS:
        for method, values in metrics.get(split, {}).items():
            for metric, value in values.items():
                number = math.nan if value is None else float(value)
                rows.append((split, method, metric, number))
    return _metric_table(rows)


def _metric_table(rows: list[tuple[str, str, str, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS)).astype(METRIC_COLUMNS)
