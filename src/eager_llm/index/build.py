"""Building the item index: one tree a source, their paths side by side."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.index.build_checkpoint import BuildCheckpoint, build_key
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.ray_pool import LocalPool, Pool, worker_pool
from eager_llm.index.shards import Shards
from eager_llm.index.tree import SourceTree, TreeBuilder
from eager_llm.settings import IndexSettings

# source -> float [items, dim], or path or URI of .npy files (see `Shards.open`)
Embeddings = Mapping[str, np.ndarray | str | Path]


def build_index(
    item_ids: list[str],
    embeddings: Embeddings,
    settings: IndexSettings,
    seed: int,
    jobs: Path | None = None,
) -> ItemIndex:
    """Build the item index from one embedding a source.

    The index depends on the items, embeddings, settings and seed, not on the number of workers.

    Args:
        item_ids: the items, in the order of the embeddings' rows.
        embeddings: of every source of the settings.
        jobs: folder for what is finished, so that a build that was cut off goes on; None stores
            nothing.

    Raises:
        UserError: an embedding is missing, of another length, or holds NaN, infinite or zero
            vectors.
    """
    if not item_ids:
        raise UserError("there are no items to index")
    sources = open_sources(item_ids, embeddings, list(settings.sources))
    checkpoint = BuildCheckpoint(jobs, build_key(sources, settings, seed))
    trees: dict[str, SourceTree] = {}
    with worker_pool(sources, settings.precision, settings.workers) as pool:
        check_embeddings(pool, sources, item_ids)
        for source, shards in sources.items():
            builder = TreeBuilder(pool, shards, settings, seed, checkpoint)
            trees[source] = builder.build()
    index = _join_trees(item_ids, trees, settings.branching)
    checkpoint.finish()
    return index


def open_sources(
    item_ids: list[str],
    embeddings: Embeddings,
    names: list[str],
) -> dict[str, Shards]:
    """Open the embeddings of the named sources, a row an item.

    Raises:
        UserError: one is missing, or has another number of rows.
    """
    missing = [name for name in names if name not in embeddings]
    if missing:
        present = ", ".join(embeddings) or "none"
        raise UserError(f"no embedding given for {', '.join(missing)}; given: {present}")
    sources = {name: Shards.open(embeddings[name], name) for name in names}
    for name, shards in sources.items():
        if shards.rows != len(item_ids):
            raise UserError(
                f"{name} embedding has {shards.rows} rows for {len(item_ids)} items; "
                "expected one an item"
            )
    return sources


def open_for_index(
    index: ItemIndex,
    item_ids: list[str],
    embeddings: Embeddings,
    names: list[str],
) -> dict[str, Shards]:
    """Open embeddings of sources that an index has been built on, a row an item, and check them.

    Raises:
        UserError: an item is given twice; or an embedding is missing, has another number of rows or
            another width than the index was built on, or holds NaN, infinite or zero vectors.
    """
    if len(set(item_ids)) != len(item_ids):
        ids = pd.Series(item_ids)
        duplicate = ids[ids.duplicated()].iloc[0]
        raise UserError(f"item {duplicate!r} is given twice")
    sources = open_sources(item_ids, embeddings, names)
    for source, shards in sources.items():
        first_level = index.levels_of[source].start
        width = index.centroids[first_level].shape[1]
        if shards.dim != width:
            raise UserError(
                f"{source} embedding has {shards.dim} numbers a row, the index was built on "
                f"{width}; use the same encoder, or build the index anew"
            )
    check_embeddings(LocalPool(sources, "float32"), sources, item_ids)
    return sources


def check_embeddings(
    pool: Pool,
    sources: dict[str, Shards],
    item_ids: list[str],
) -> None:
    """Refuse NaN, infinite and zero vectors, naming the first item that has one.

    Raises:
        UserError: there is such a vector.
    """
    for source, shards in sources.items():
        calls = [(source, start, stop) for start, stop in shards.row_ranges]
        faults = [fault for fault in pool.map("faulty_rows", calls) if fault]
        if not faults:
            continue
        row, kind, _ = faults[0]
        total = sum(count for _, _, count in faults)
        raise UserError(
            f"{source} embedding of item {item_ids[row]!r} (row {row}) is {kind}; "
            f"{total} such rows: leave the items out, or encode them again"
        )


def _join_trees(
    item_ids: list[str],
    trees: dict[str, SourceTree],
    branching: int,
) -> ItemIndex:
    """Return the index whose paths are those of the trees side by side."""
    level_sources: list[str] = []
    centroids: list[np.ndarray] = []
    for source, tree in trees.items():
        level_sources += [source] * len(tree.centroids)
        centroids += tree.centroids
    return ItemIndex(
        item_ids=item_ids,
        codes=np.concatenate([tree.codes for tree in trees.values()], axis=1),
        sources=tuple(level_sources),
        branching=branching,
        centroids=centroids,
        errors=np.concatenate([tree.errors for tree in trees.values()], axis=1),
    )
