"""The bundle: the one directory that serving loads, verified by the checksum of every file."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from eager_llm.backbone.loading import ADAPTER, TASKS, load_tuned
from eager_llm.bundle.keyword_search import KeywordSearch
from eager_llm.core.errors import UserError
from eager_llm.core.files import (
    copy_into,
    fetch_folder,
    read_json,
    send,
    sha256_file,
    whole_folder,
    write_json,
)
from eager_llm.data.tables import item_titles
from eager_llm.decoding.filters import Filter
from eager_llm.decoding.inference_weights import optimize_for_inference
from eager_llm.decoding.recommender import Recommender
from eager_llm.decoding.text_generation import TextGenerator
from eager_llm.decoding.trie import Trie
from eager_llm.evaluation.baselines import Popularity
from eager_llm.evaluation.evaluate import training_histories
from eager_llm.features.feature_store import service_name
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.nearest_items import NearestItems
from eager_llm.item_prior.table import FILE as NEIGHBOURS
from eager_llm.item_prior.table import ItemPriorTable
from eager_llm.prompts.builder import PromptBuilder, item_tokens
from eager_llm.settings import DecodingSettings, Settings

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
TRIE = "trie.safetensors"
METRICS = "metrics.json"


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
        model: folder with `backbone`, `tokenizer`, the phrasings, the neighbours and, where there is one, `adapter`.
        metrics: what `evaluate` wrote; `prior` has the weight of the neighbours that validation chose.
        check: looks at the bundle before it is there for anybody else, raises where it is not to be, and returns
            what its manifest is to say besides.
    """
    from transformers import AutoTokenizer

    index = ItemIndex.load(item_index)
    rows = index.rows
    train = [[rows[item] for item in history] for history in training_histories(examples)]
    ranking = Popularity(train, len(index.item_ids), settings.seed).order
    tokenizer = AutoTokenizer.from_pretrained(model / "tokenizer")
    with whole_folder(target) as draft:
        copy_into(model, draft)
        neighbours = ItemPriorTable.load(draft / NEIGHBOURS, len(index.item_ids))
        replace(neighbours, weight=metrics["prior"]["weight"]).save(draft / NEIGHBOURS)
        index.save(draft / "item_index.parquet")
        Trie.build(item_tokens(tokenizer, index)).save(draft / TRIE)
        # All columns: requests may filter by any of them.
        items.to_parquet(draft / "catalogue.parquet", index=False)
        fallback = pd.DataFrame({"item_id": [index.item_ids[row] for row in ranking]})
        fallback.to_parquet(draft / "fallback.parquet", index=False)
        generation = {
            "decoding": settings.decoding.model_dump(mode="json"),
            "max_history": settings.data.max_history,
            "text_tokens": settings.tuning.text_tokens,
        }
        write_json(draft / "generation.json", generation)
        write_json(draft / METRICS, metrics)
        for path in draft.rglob(
            "*"
        ):  # safetensors writes for its user alone; a service runs as another one
            path.chmod(0o755 if path.is_dir() else 0o644)
        manifest = _manifest(draft, settings, metadata, index)
        write_json(draft / MANIFEST, manifest)
        if check is not None:
            write_json(draft / MANIFEST, {**manifest, **check(draft)})


def verify_bundle(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle whose every file is as it was packed.

    Raises:
        UserError: no bundle, another schema version, or a file missing, changed or added; named.
    """
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: no {MANIFEST} there; a bundle is made by: eager-llm run")
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        raise UserError(
            f"{folder}: bundle schema version {version!r}; this release reads {SCHEMA_VERSION}"
        )
    faults = bundle_faults(folder)
    if faults:
        raise UserError(f"{folder}: the bundle is refused:\n  " + "\n  ".join(faults))
    return manifest


def bundle_faults(folder: Path) -> list[str]:
    """Return every file of a bundle that is missing, changed or added, by its manifest."""
    files = read_json(folder / MANIFEST)["files"]
    named, there = set(files), set(_files(folder))
    faults = [f"{name} is missing" for name in sorted(named - there)]
    faults += [f"{name} is not in the manifest" for name in sorted(there - named)]
    for name in sorted(named & there):
        if sha256_file(folder / name) != files[name]["sha256"]:
            faults.append(f"{name} has changed since it was packed")
    return faults


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, loaded.

    Attributes:
        recommender: answers histories.
        items: the catalogue, indexed by item id.
        fallback: all item ids by popularity, for those without a usable history.
        manifest: what the bundle says of itself.
        folder: where it lies.
    """

    recommender: Recommender
    items: pd.DataFrame
    fallback: list[str]
    manifest: dict[str, Any]
    folder: Path

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Bundle":
        """Verify and load a bundle. Raises UserError where it is refused."""
        manifest = verify_bundle(folder)
        generation = read_json(folder / "generation.json")
        index = ItemIndex.load(folder / "item_index.parquet")
        items = pd.read_parquet(folder / "catalogue.parquet")
        model, tokenizer = load_tuned(folder, index, device)
        book = PromptBuilder(tokenizer, index, items, generation["text_tokens"], folder / TASKS)
        decoding = DecodingSettings(**generation["decoding"])
        trie = Trie.load(folder / TRIE)
        neighbours = ItemPriorTable.load(folder / NEIGHBOURS, len(index.item_ids))
        ready = optimize_for_inference(model, decoding.precision, decoding.adapter_strength)
        return cls(
            Recommender(ready, book, index, decoding, generation["max_history"], trie, neighbours),
            items.set_index("item_id"),
            pd.read_parquet(folder / "fallback.parquet")["item_id"].tolist(),
            manifest,
            folder,
        )

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What was measured when it was packed."""
        return read_json(self.folder / METRICS)

    @cached_property
    def version(self) -> str:
        """Names the bundle: the beginning of its manifest's SHA-256."""
        return sha256_file(self.folder / MANIFEST)[:12]

    @cached_property
    def plain(self) -> Recommender:
        """The same with the adapter off, which reads and writes text; a second copy of the weights.

        Where there is no adapter it is the recommender itself.
        """
        tuned = self.recommender
        if not (self.folder / ADAPTER).is_dir():
            return tuned
        device = str(tuned.model.device)
        model = optimize_for_inference(
            load_tuned(self.folder, tuned.index, device, adapter=False)[0], tuned.settings.precision
        )
        return Recommender(
            model, tuned.book, tuned.index, tuned.settings, tuned.max_history, tuned.trie
        )

    @cached_property
    def writer(self) -> TextGenerator:
        """Writes what an item is, with the adapter off."""
        return TextGenerator(self.plain.model, self.plain.book)

    @cached_property
    def near(self) -> NearestItems:
        """Items alike, by the index."""
        return NearestItems(self.recommender.index)

    @cached_property
    def finder(self) -> KeywordSearch:
        """Items by the words of their titles, the more popular first among equals."""
        return KeywordSearch(self.items.loc[self.fallback].reset_index())

    def popular(self, k: int, conditions: Filter, without: Collection[str] = ()) -> list[str]:
        """Return the k most popular items that meet some conditions, those of a history left out."""
        chosen = self.passing(self.fallback, conditions)
        return [item for item in chosen if item not in without][:k]

    def passing(self, items: list[str], conditions: Filter) -> list[str]:
        """Return which of some items meet all conditions. Raises UserError where one does not fit the catalogue."""
        if not conditions:
            return items
        passes, rows = self.recommender.columns.passing(conditions), self.recommender.index.rows
        return [item for item in items if passes[rows[item]]]

    def title(self, item_id: str) -> str:
        """Return what an item is called, or its categories, or its id where it has no text."""
        return self._titles[item_id]

    @cached_property
    def _titles(self) -> dict[str, str]:
        return item_titles(self.items.reset_index())


def fetch_bundle(place: str, folder: Path) -> Path:
    """Return the folder of a bundle by its path or fsspec URI; what is elsewhere is copied into `folder`.

    Raises:
        UserError: nothing is there, or the scheme needs a package that is missing.
    """
    return fetch_folder(place, folder, "the bundle") if "://" in place else Path(place)


def version_name(folder: Path) -> str:
    """Return what a bundle is called where several lie side by side: its day and its version."""
    return f"{read_json(folder / MANIFEST)['packed_at'][:10]}-{sha256_file(folder / MANIFEST)[:12]}"


def store_bundle(folder: Path, store: str) -> str:
    """Copy a bundle below a folder or fsspec URI under its `version_name`, which is returned.

    The manifest is written last: without it nothing takes an unfinished copy for a bundle.

    Raises:
        UserError: the bundle is refused, or the place cannot be written.
    """
    manifest, version = verify_bundle(folder), version_name(folder)
    if "://" not in store:
        with whole_folder(Path(store) / version) as draft:
            copy_into(folder, draft)
        return version
    send(
        [(name, folder / name) for name in [*manifest["files"], MANIFEST]],
        f"{store.rstrip('/')}/{version}",
    )
    return version


def _manifest(
    folder: Path, settings: Settings, metadata: dict[str, Any], index: ItemIndex
) -> dict[str, Any]:
    files = {
        name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
        for name in _files(folder)
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "packed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "feature_service": service_name(index.version_name),
        "data": metadata,
        "settings": settings.to_dict(),
        "files": files,
    }


def _files(folder: Path) -> list[str]:
    paths = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in paths if name != MANIFEST)
