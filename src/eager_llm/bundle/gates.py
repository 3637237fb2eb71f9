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
from eager_llm.evaluation.methods import MODEL_WITH_PRIOR
from eager_llm.index.item_index import ItemIndex
from eager_llm.prompts.builder import item_tokens
from eager_llm.settings import AcceptanceSettings
from eager_llm.validation.gate import Gate, GateResult
from eager_llm.validation.suite import run_suite

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
        return run_suite(connection, bundle_gates(settings), settings.waived, quarantine)


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


def bundle_gates(settings: AcceptanceSettings) -> list[Gate]:
    """Return the suite of a bundle.

    It reads the views `files` (fault), `items`, `catalogue` and `fallback` (item_id), `lost`
    (item_id, found), `metrics` and `accepted` (split, method, metric, value).
    """
    repeated = "SELECT item_id, 'twice' FROM fallback GROUP BY item_id HAVING count(*) > 1"
    gates = [
        Gate(
            name="bundle-files",
            table="bundle",
            rule="every file is there, and is as its checksum says",
            rows_sql="SELECT * FROM files",
        ),
        Gate(
            name="bundle-catalogue",
            table="bundle",
            rule="the catalogue's items are those of the item index",
            rows_sql=_difference_sql("catalogue", "items"),
        ),
        Gate(
            name="bundle-decodable",
            table="bundle",
            rule="every item's tokens lead to it in the trie",
            rows_sql="SELECT * FROM lost",
        ),
        Gate(
            name="bundle-fallback",
            table="bundle",
            rule="the fallback ranks every item once",
            rows_sql=f"{_difference_sql('fallback', 'items')} UNION ALL {repeated}",
        ),
        Gate(
            name="metrics-finite",
            table="bundle",
            rule="every metric is a number from 0 to 1",
            rows_sql=(
                "SELECT * FROM metrics "
                "WHERE value IS NULL OR NOT isfinite(value) OR value < 0 OR value > 1"
            ),
        ),
        Gate(
            name="metrics-given",
            table="bundle",
            rule="the model has been measured on test",
            figure_sql=(
                "SELECT count(*) FROM metrics "
                f"WHERE split = 'test' AND method = '{MODEL_WITH_PRIOR}'"
            ),
            least=1,
            most=None,
        ),
    ]
    if settings.baseline:
        gates.append(_metrics_kept(settings.max_metric_drop))
    return gates


def _difference_sql(left: str, right: str) -> str:
    """Return SQL for the items that stand in one of two tables alone, and in which."""
    return (
        f"SELECT item_id, '{left} only' AS stands FROM {left} ANTI JOIN {right} USING (item_id) "
        f"UNION ALL SELECT item_id, '{right} only' FROM {right} ANTI JOIN {left} USING (item_id)"
    )


def _metrics_kept(max_metric_drop: float) -> Gate:
    """Bound how far the model's test metrics may fall below those of the accepted bundle."""
    share = repr(1 - max_metric_drop)
    return Gate(
        name="metrics-kept",
        table="bundle",
        rule=(
            f"no test metric of the model is over {max_metric_drop:.0%} below the accepted bundle's"
        ),
        rows_sql=(
            "SELECT split, method, metric, a.value AS accepted, m.value AS now "
            "FROM accepted a LEFT JOIN metrics m USING (split, method, metric) "
            f"WHERE split = 'test' AND method = '{MODEL_WITH_PRIOR}' "
            f"AND NOT coalesce(m.value >= a.value * {share}, false)"
        ),
    )
