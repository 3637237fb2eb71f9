"""Packing: from a tuned model to the one directory that serving loads."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from eager_llm.bundle.layout import (
    CATALOGUE,
    FALLBACK,
    GENERATION,
    ITEM_INDEX,
    MANIFEST,
    METRICS,
    SCHEMA_VERSION,
    TRIE,
)
from eager_llm.bundle.verify import packed_files
from eager_llm.core.files import copy_into, sha256_file, whole_folder, write_json
from eager_llm.decoding.trie import Trie
from eager_llm.evaluation.baselines import Popularity
from eager_llm.evaluation.evaluate import training_histories
from eager_llm.features.feature_store import service_name
from eager_llm.index.item_index import ItemIndex
from eager_llm.item_prior.table import FILE as ITEM_PRIOR
from eager_llm.item_prior.table import ItemPriorTable
from eager_llm.prompts.builder import item_tokens
from eager_llm.settings import Settings


def pack_bundle(
    target: Path,
    model: Path,
    item_index: Path,
    items: pd.DataFrame,
    examples: pd.DataFrame,
    settings: Settings,
    metrics: dict[str, Any],
    metadata: dict[str, Any],
    check: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Write a bundle, whole or not at all, from a tuned model and all that it needs to answer.

    Args:
        model: folder with `backbone`, `tokenizer`, the templates, the item prior and, where the
            model has one, `adapter`.
        metrics: what `evaluate` wrote; `prior` has the weight of the item prior that validation
            chose.
        metadata: of the log, for the manifest.
        check: looks at the finished draft, raises where it is not good enough, and returns
            further keys of the manifest. None: the bundle is not checked.
    """
    index = ItemIndex.load(item_index)
    with whole_folder(target) as draft:
        copy_into(model, draft)
        _write_item_prior(draft, len(index.item_ids), metrics["prior"]["weight"])
        index.save(draft / ITEM_INDEX)
        _write_trie(draft, index)
        # All columns: requests may filter by any of them.
        items.to_parquet(draft / CATALOGUE, index=False)
        _write_fallback(draft, index, examples, settings.seed)
        generation = {
            "decoding": settings.decoding.model_dump(mode="json"),
            "max_history": settings.data.max_history,
            "text_tokens": settings.tuning.text_tokens,
        }
        write_json(draft / GENERATION, generation)
        write_json(draft / METRICS, metrics)
        _make_readable(draft)
        manifest = _manifest(draft, settings, metadata, index)
        write_json(draft / MANIFEST, manifest)
        if check is not None:
            write_json(draft / MANIFEST, {**manifest, **check(draft)})


def _write_item_prior(draft: Path, items: int, weight: float) -> None:
    """Give the item prior the weight that validation chose."""
    table = ItemPriorTable.load(draft / ITEM_PRIOR, items)
    replace(table, weight=weight).save(draft / ITEM_PRIOR)


def _write_trie(draft: Path, index: ItemIndex) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(draft / "tokenizer")
    Trie.build(item_tokens(tokenizer, index)).save(draft / TRIE)


def _write_fallback(draft: Path, index: ItemIndex, examples: pd.DataFrame, seed: int) -> None:
    """Write all items by popularity, the most popular one first."""
    train = training_histories(examples)
    histories = [[index.rows[item] for item in history] for history in train]
    order = Popularity(histories, len(index.item_ids), seed).order
    item_ids = [index.item_ids[row] for row in order]
    pd.DataFrame({"item_id": item_ids}).to_parquet(draft / FALLBACK, index=False)


def _make_readable(draft: Path) -> None:
    """Let everybody read: safetensors writes for its user alone, a service runs as another one."""
    for path in draft.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _manifest(
    folder: Path, settings: Settings, metadata: dict[str, Any], index: ItemIndex
) -> dict[str, Any]:
    files: dict[str, dict[str, Any]] = {}
    for name in packed_files(folder):
        path = folder / name
        files[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    return {
        "schema_version": SCHEMA_VERSION,
        "packed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "feature_service": service_name(index.version_name),
        "data": metadata,
        "settings": settings.to_dict(),
        "files": files,
    }
