"""Building the item index, as Ray tasks or in this process, with the same result."""

from collections.abc import Callable
from typing import Any

import numpy as np

from eager_llm.index.item_index import ItemIndex
from eager_llm.index.tree import SourceTree, assign_parents, build_tree, check_embedding
from eager_llm.progress import progress, say
from eager_llm.settings import IndexSettings


def build_index(
    item_ids: list[str], embeddings: dict[str, np.ndarray], settings: IndexSettings, seed: int
) -> ItemIndex:
    """Build the item index from one embedding a source.

    Args:
        item_ids: the items, in the order of the embeddings' rows.
        embeddings: source -> float32 [items, dim]; every source of the settings must be there.

    Raises:
        UserError: an embedding holds NaN or infinite values.
    """
    for source in settings.sources:
        check_embedding(embeddings[source], item_ids, source)
    build = _build_here if settings.workers == 0 else _build_on_ray
    trees = build([embeddings[source] for source in settings.sources], settings, seed)
    return ItemIndex(
        item_ids=item_ids,
        codes=np.concatenate([tree.codes for tree in trees], axis=1),
        sources=tuple(
            source for source, tree in zip(settings.sources, trees, strict=True) for _ in range(tree.codes.shape[1])
        ),
        branching=settings.branching,
        centroids=[codebook for tree in trees for codebook in tree.centroids],
    )


def _build_here(embeddings: list[np.ndarray], settings: IndexSettings, seed: int) -> list[SourceTree]:
    return [build_tree(e, settings.branching, settings.iterations, seed) for e in embeddings]


def _build_on_ray(embeddings: list[np.ndarray], settings: IndexSettings, seed: int) -> list[SourceTree]:
    """A task a source builds the tree; the parents of its lower levels are tasks of their own."""
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        # The dashboard doubles Ray's memory; RAY_ADDRESS, where set, joins a running cluster.
        say(f"Ray: starting with {settings.workers} workers")
        start_ray(settings.workers)
    try:
        tree = ray.remote(num_cpus=1, max_retries=3)(_source_task)
        futures = [tree.remote(e, settings.branching, settings.iterations, seed, settings.workers) for e in embeddings]
        names = dict(zip(futures, settings.sources, strict=True))
        waiting = list(futures)
        with progress(total=len(futures), desc="item index", unit="source") as bar:
            while waiting:
                done, waiting = ray.wait(waiting, num_returns=1)
                bar.set_postfix_str(f"{names[done[0]]} done")
                bar.update(1)
        return list(ray.get(futures))
    finally:
        if started_here:
            ray.shutdown()


def start_ray(workers: int) -> None:
    """Start Ray on this machine, or join the cluster of RAY_ADDRESS."""
    import os

    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    runtime: dict[str, Any] = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(runtime_env=runtime, logging_level="warning")
    else:
        ray.init(num_cpus=workers, include_dashboard=False, runtime_env=runtime, logging_level="warning")


def _source_task(embedding: np.ndarray, branching: int, iterations: int, seed: int, workers: int) -> SourceTree:
    return build_tree(embedding, branching, iterations, seed, _assign_on_ray(workers))


def _assign_on_ray(workers: int) -> Callable[..., list[np.ndarray]]:
    def assign(points: np.ndarray, codebook: np.ndarray, groups: list[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        import ray

        # While this task waits for its parts Ray lends its processor to them: no deadlock.
        task = ray.remote(num_cpus=1, max_retries=3)(assign_parents)
        shared_points, shared_codebook = ray.put(points), ray.put(codebook)
        size = -(-len(groups) // workers)
        parts = [groups[start : start + size] for start in range(0, len(groups), size)]
        found = ray.get([task.remote(shared_points, shared_codebook, part) for part in parts])
        return [labels for part in found for labels in part]

    return assign
