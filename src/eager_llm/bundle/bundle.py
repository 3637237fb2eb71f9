"""The bundle: the one directory that serving loads, verified by the checksum of every file."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.backbone.tuned_model import ADAPTER, TEMPLATES, load_tuned
from eager_llm.bundle.keyword_search import KeywordSearch
from eager_llm.bundle.layout import (
    CATALOGUE,
    FALLBACK,
    GENERATION,
    ITEM_INDEX,
    TRIE,
    bundle_file,
    read_metrics,
)
from eager_llm.bundle.store import manifest_digest
from eager_llm.bundle.verify import verify_bundle
from eager_llm.core.files import read_json
from eager_llm.data.tables import item_titles, read_catalogue
from eager_llm.decoding.filters import Filter
from eager_llm.decoding.inference_weights import optimize_for_inference
from eager_llm.decoding.prefix_cache import PrefixCache
from eager_llm.decoding.recommender import Recommender
from eager_llm.decoding.text_generation import TextGenerator
from eager_llm.decoding.trie import Trie
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.nearest_items import NearestItemSearch
from eager_llm.item_prior.table import FILE as ITEM_PRIOR
from eager_llm.item_prior.table import ItemPriorTable
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.settings import DecodingSettings


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, loaded.

    Attributes:
        recommender: answers histories.
        items: the catalogue, indexed by item id.
        fallback: all item ids by popularity, for users without a usable history.
        manifest: what the bundle says of itself.
        folder: its directory.
    """

    recommender: Recommender
    items: pd.DataFrame
    fallback: list[str]
    manifest: dict[str, Any]
    folder: Path

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", with_prefix_cache: bool = False) -> "Bundle":
        """Verify and load a bundle.

        Args:
            with_prefix_cache: whether the recommenders keep the keys and values of prompts, as
                `decoding.prefix_cache_mb` says: for who serves.

        Raises:
            UserError: the bundle is refused; see `verify_bundle`.
        """
        manifest = verify_bundle(folder)
        items = read_catalogue(folder / CATALOGUE)
        return cls(
            recommender=_load_recommender(folder, items, device, with_prefix_cache),
            items=items.set_index("item_id"),
            fallback=pd.read_parquet(folder / FALLBACK)["item_id"].tolist(),
            manifest=manifest,
            folder=folder,
        )

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What was measured when it was packed."""
        return read_metrics(self.folder)

    @cached_property
    def version(self) -> str:
        """Names the bundle: the beginning of its manifest's SHA-256."""
        return manifest_digest(self.folder)

    @cached_property
    def text_recommender(self) -> Recommender:
        """The same with the adapter off, which reads and writes text; a second copy of the weights.

        Where there is no adapter it is the recommender itself.
        """
        tuned = self.recommender
        if not (self.folder / ADAPTER).is_dir():
            return tuned
        device = str(tuned.model.device)
        model, _ = load_tuned(self.folder, tuned.index, device, adapter=False)
        return Recommender(
            optimize_for_inference(model, tuned.settings.precision),
            tuned.prompt_builder,
            tuned.index,
            tuned.settings,
            tuned.max_history,
            tuned.trie,
            prefix_cache=None if tuned.prefix_cache is None else _prefix_cache(tuned.settings),
            columns=tuned.columns,
        )

    @cached_property
    def text_generator(self) -> TextGenerator:
        """Writes what an item is, with the adapter off."""
        return TextGenerator(self.text_recommender.model, self.text_recommender.prompt_builder)

    @cached_property
    def nearest_items(self) -> NearestItemSearch:
        """The nearest items of an item, by the index."""
        return NearestItemSearch(self.recommender.index)

    @cached_property
    def keyword_search(self) -> KeywordSearch:
        """Items by the words of their titles, the more popular first among equals."""
        return KeywordSearch(self.items.loc[self.fallback].reset_index())

    def prepare(self) -> None:
        """Build all that answers need beside the model, so that no request waits for it."""
        self.recommender.columns.prepare()
        self.popular(1, frozenset(), self.fallback[:1])
        self.title(self.fallback[0])
        self.keyword_search.find("a", 1)
        self.nearest_items.nearest(0, 1)
        _ = self._popular_rows, self.version, self.metrics

    def popular(self, k: int, conditions: Filter, excluded: Collection[str] = ()) -> list[str]:
        """Return the k most popular items that meet all conditions, `excluded` ones left out.

        Raises:
            UserError: a condition does not fit the catalogue.
        """
        candidates: Iterable[str] = self.fallback
        passes = self.passing(conditions)
        if passes is not None:
            candidates = (self.fallback[place] for place in np.flatnonzero(passes))
        # Only as far as k items: the catalogue may be long.
        kept = (item for item in candidates if item not in excluded)
        return list(islice(kept, k))

    def passing(self, conditions: Filter) -> np.ndarray | None:
        """Return which items meet all conditions, bool [items] by popularity; None: all do.

        Raises:
            UserError: a condition does not fit the catalogue.
        """
        if not conditions:
            return None
        return self.recommender.columns.passing(conditions)[self._popular_rows]

    def title(self, item_id: str) -> str:
        """Return what an item is called, or its categories, or its id where it has no text."""
        return self._titles[item_id]

    @cached_property
    def _popular_rows(self) -> np.ndarray:
        """The row in the index of each item, by popularity, int32 [items]."""
        rows = self.recommender.index.rows
        return np.array([rows[item] for item in self.fallback], dtype=np.int32)

    @cached_property
    def _titles(self) -> dict[str, str]:
        return item_titles(self.items.reset_index())


def _load_recommender(
    folder: Path, items: pd.DataFrame, device: str, with_prefix_cache: bool
) -> Recommender:
    generation = read_json(folder / GENERATION)
    index = ItemIndex.load(folder / ITEM_INDEX)
    model, tokenizer = load_tuned(folder, index, device)
    templates = bundle_file(folder, TEMPLATES)
    builder = PromptBuilder(tokenizer, index, items, generation["text_tokens"], templates)
    decoding = DecodingSettings(**generation["decoding"])
    trie = Trie.load(folder / TRIE)
    prior = ItemPriorTable.load(bundle_file(folder, ITEM_PRIOR), len(index.item_ids))
    model = optimize_for_inference(model, decoding.precision, decoding.adapter_strength)
    cache = _prefix_cache(decoding) if with_prefix_cache else None
    max_history = generation["max_history"]
    return Recommender(model, builder, index, decoding, max_history, trie, prior, cache)


def _prefix_cache(settings: DecodingSettings) -> PrefixCache | None:
    """Return an empty prefix cache of the size that the settings say, or None."""
    if not settings.prefix_cache_mb:
        return None
    return PrefixCache(settings.prefix_cache_mb << 20)
