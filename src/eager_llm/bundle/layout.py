"""The files of a bundle and what they are called, in this version of the schema and in the one before.

A bundle of version 3 still loads: its files, the keys of its manifest and the rows of its tables
are read under their current names. Its bytes stay as they were packed.
"""

from pathlib import Path
from typing import Any

from eager_llm.backbone.tuned_model import TEMPLATES
from eager_llm.core.files import read_json
from eager_llm.evaluation.language import HELD_OUT_PERPLEXITY
from eager_llm.evaluation.methods import MODEL, MODEL_WITH_PRIOR, PRIOR_ALONE
from eager_llm.item_prior.table import FILE as ITEM_PRIOR

SCHEMA_VERSION = 4
EARLIER_VERSION = 3

MANIFEST = "manifest.json"
ITEM_INDEX = "item_index.parquet"
CATALOGUE = "catalogue.parquet"
FALLBACK = "fallback.parquet"
TRIE = "trie.safetensors"
GENERATION = "generation.json"
METRICS = "metrics.json"
LANGUAGE = "language.json"
CURVES = "curves.json"
REFRESH_PLAN = "refresh_plan.json"
WAIVED_GATES = "waived_gates"

# The current name, and the name in version 3.
_EARLIER_FILES = {
    ITEM_PRIOR: "neighbours.safetensors",
    TEMPLATES: "tasks.json",
    REFRESH_PLAN: "night.json",
}
# The name in version 3, and the current name.
_RENAMED_KEYS = {"gates_gone_on_without": WAIVED_GATES}
_RENAMED_METHODS = {
    "EAGER-LLM": MODEL_WITH_PRIOR,
    "EAGER-LLM, model alone": MODEL,
    "neighbours alone": PRIOR_ALONE,
}
_RENAMED_MEASURES = {"perplexity of unseen texts": HELD_OUT_PERPLEXITY}


def bundle_file(folder: Path, name: str) -> Path:
    """Return the path of a bundle's file by its current name, whichever version the bundle has."""
    path = folder / name
    earlier = _EARLIER_FILES.get(name)
    if earlier is not None and not path.exists() and (folder / earlier).exists():
        return folder / earlier
    return path


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a bundle's manifest under the current names; `files` names the files as they lie there.

    Raises:
        UserError: there is none, or it is not JSON.
    """
    manifest = read_json(folder / MANIFEST)
    return _renamed(manifest, _RENAMED_KEYS) if isinstance(manifest, dict) else {}


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return what was measured of a bundle, under the current names of methods and measures.

    Raises:
        UserError: the file is missing, or not JSON.
    """
    metrics: dict[str, Any] = read_json(folder / METRICS)
    if not _is_earlier(folder):
        return metrics
    for split in ("validation", "test"):
        if split in metrics:
            metrics[split] = _renamed(metrics[split], _RENAMED_METHODS)
    metrics["language"] = _renamed_rows(metrics.get("language", {}))
    metrics["adapter"] = [_renamed(row, _RENAMED_MEASURES) for row in metrics.get("adapter", [])]
    return metrics


def read_language(folder: Path) -> dict[str, dict[str, float]]:
    """Return the language measures of a bundle's stage 1, under the current names.

    Raises:
        UserError: the file is missing, or not JSON.
    """
    return _renamed_rows(read_json(folder / LANGUAGE))


def _is_earlier(folder: Path) -> bool:
    if not (folder / MANIFEST).is_file():
        return False
    return read_manifest(folder).get("schema_version") == EARLIER_VERSION


def _renamed_rows(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: _renamed(row, _RENAMED_MEASURES) for name, row in rows.items()}


def _renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return values in the same order, some of them under another name."""
    return {names.get(name, name): value for name, value in values.items()}
