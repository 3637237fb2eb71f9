"""One source's tree: balanced k-means at the top, residual labels shared by all parents below.

Below the top level a point is described by what its parents leave over (its residual). The labels
of a level come from one codebook of residuals, so that the same label means a similar direction
under every parent; capacities keep each leaf to one item (EAGER-LLM, section 3.3: DKI).

Three builders differ in two things only, what a level sees and how much a label may hold:

- `balanced` (the paper): a label holds its even share of the parent's items.
- `residual` (residual k-means, as in RQ-VAE's tokens): a label holds what the levels below have
  room for.
- `product` (product quantisation): as `residual`, and each level sees its own slice of the
  dimensions.

None has collisions: what does not fit under its nearest label goes to the nearest one with room.

Shapes: N items, K labels of a level, D dimensions of the embedding, L levels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eager_llm.core.progress import progress
from eager_llm.index.build_checkpoint import BuildCheckpoint, State
from eager_llm.index.capacity import assign_columns, capacity_of
from eager_llm.index.codebooks import CodebookFitter
from eager_llm.index.kmeans import (
    ClusterSums,
    matmul_precision,
    nearest_labels,
    pad_codebook,
    score,
)
from eager_llm.index.ray_pool import Pool
from eager_llm.index.shards import RANGE_ROWS, Shards
from eager_llm.settings import IndexSettings

# Points for each label in the sample that the lower levels' codebooks are made on.
SAMPLE_POINTS = 256


@dataclass(frozen=True)
class SourceTree:
    """The tree of one source.

    Attributes:
        codes: the path of each item, int32 [N, L]; no two are equal.
        errors: squared distance from an item to its path's point after each level, float32 [N, L].
        centroids: a codebook for each level, float32 [K, D]; a path's point is the sum of its
            centroids.
    """

    codes: np.ndarray
    errors: np.ndarray
    centroids: list[np.ndarray]


def tree_height(items: int, branching: int) -> int:
    """Return the least height with room for every item: ceil(log_k N), in whole numbers."""
    height = 1
    leaves = branching
    while leaves < items:
        height += 1
        leaves *= branching
    return height


class TreeBuilder:
    """Builds the tree of one source with a pool of workers.

    Args:
        pool: works on the ranges of rows.
        shards: the embedding, float [N, D].
        seed: of the sample and of the codebooks.
        checkpoint: stores what is finished, so that a build that was cut off goes on.
    """

    def __init__(
        self,
        pool: Pool,
        shards: Shards,
        settings: IndexSettings,
        seed: int,
        checkpoint: BuildCheckpoint,
    ) -> None:
        self.pool = pool
        self.shards = shards
        self.settings = settings
        self.checkpoint = checkpoint
        self.source = shards.name
        self.items = shards.rows
        self.height = tree_height(self.items, settings.branching)
        self.balanced = settings.builder == "balanced"
        self.fitter = CodebookFitter(settings, self.height, seed)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.sample = self._draw_sample(seed)

    def build(self) -> SourceTree:
        """Build the tree: top level, codebooks of the lower levels, then every branch by itself."""
        with matmul_precision(self.settings.precision):
            codebook, prices = self._fit_top()
            labels, codebook = self._label_top(codebook, prices)
            codebooks = self._fit_lower(codebook, prices)
        centroids = [codebook.cpu().numpy() for codebook in codebooks]
        codes, errors = self._descend_branches(labels, centroids)
        return SourceTree(codes, errors, centroids)

    def _draw_sample(self, seed: int) -> torch.Tensor:
        """Return points that the codebooks are made on, in random order."""
        count = min(self.items, SAMPLE_POINTS * self.settings.branching)
        rng = np.random.default_rng(seed)
        rows = rng.choice(self.items, count, replace=False)
        return self._tensor(self.shards.take(rows))

    def _fit_top(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Run Lloyd's iterations on the sample, then over all points; return codebook and prices.

        An iteration over all points sums up each range of rows, and moves the centroids once.
        """
        name = f"{self.source}-top"
        state = self.checkpoint.load(name)
        if state is None:
            codebook, prices = self.fitter.fit(self.sample, 0)
            done = 0
        else:
            codebook = self._tensor(state["codebook"])
            prices = self._tensor(state["prices"])
            done = int(state["done"])
        iterations = self.settings.full_iterations
        with self._bar("top level", iterations, "iteration", done) as bar:
            for number in range(done + 1, iterations + 1):
                range_sums = self._map_ranges("lloyd", codebook, prices)
                means = self._add_up(range_sums).means(codebook)
                codebook = self.fitter.level_view(means, 0)
                prices = self.fitter.balance(self.sample, codebook, prices)
                self.checkpoint.save(
                    name,
                    {
                        "codebook": codebook.cpu().numpy(),
                        "prices": prices.cpu().numpy(),
                        "done": np.array(number),
                    },
                )
                bar.update(1)
        return codebook, prices

    def _label_top(
        self,
        codebook: torch.Tensor,
        prices: torch.Tensor,
    ) -> tuple[np.ndarray, torch.Tensor]:
        """Label all points within the capacity, and move the centroids to their means.

        Returns:
            The labels, int32 [N], and the codebook.
        """
        range_labels = []
        range_regrets = []
        for nearest, regret in self._map_ranges("nearest", codebook, prices):
            range_labels.append(nearest)
            range_regrets.append(regret)
        labels = np.concatenate(range_labels)
        regret = np.concatenate(range_regrets)
        self._move_excess(labels, regret, codebook, prices)
        calls = []
        for start, stop in self.shards.row_ranges:
            nearest = labels[start:stop]
            calls.append((self.source, start, stop, nearest, len(codebook)))
        range_sums = self.pool.map("sums", calls)
        means = self._add_up(range_sums).means(codebook)
        return labels, self.fitter.level_view(means, 0)

    def _move_excess(
        self,
        labels: np.ndarray,
        regret: np.ndarray,
        codebook: torch.Tensor,
        prices: torch.Tensor,
    ) -> None:
        """Move what a label holds beyond its capacity, least regret first, to labels with room.

        Args:
            labels: int32 [N]; changed in place.
            regret: how much worse the second label is for each point, float32 [N].
        """
        clusters = len(codebook)
        if self.balanced:
            capacity = capacity_of(self.items, clusters)
        else:
            capacity = self.settings.branching ** (self.height - 1)
        count = np.bincount(labels, minlength=clusters)
        by_label = np.lexsort((-regret, labels))
        first_of_label = np.cumsum(count) - count
        rank = np.arange(len(labels)) - np.repeat(first_of_label, count)
        is_excess = rank >= capacity
        excess = np.sort(by_label[is_excess])
        room = np.maximum(capacity - count, 0)
        offset = codebook.square().sum(1) + prices
        for start in range(0, len(excess), RANGE_ROWS):
            rows = excess[start : start + RANGE_ROWS]
            points = self._tensor(self.shards.take(rows))
            cost = score(points, codebook, offset)
            room_of_group = torch.from_numpy(room)[None]
            moved = assign_columns(cost, room_of_group).cpu().numpy()
            labels[rows] = moved
            room = room - np.bincount(moved, minlength=clusters)

    def _fit_lower(
        self,
        codebook: torch.Tensor,
        prices: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Return the codebooks of all levels, the lower ones fitted on the sample's residuals."""
        residuals = self.sample
        self.sample = self.sample[:0]  # it is large, and no longer needed
        codebooks = [pad_codebook(codebook, self.settings.branching)]
        for level in range(1, self.height):
            labels, _ = nearest_labels(residuals, codebook, prices)
            residuals.sub_(codebook[labels])
            codebook, prices = self.fitter.fit(residuals, level)
            padded = pad_codebook(codebook, self.settings.branching)
            codebooks.append(padded)
        return codebooks

    def _descend_branches(
        self,
        labels: np.ndarray,
        centroids: list[np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take every branch of the top level down the tree; return codes and errors, both [N, L].

        Args:
            labels: the branch of each item, int32 [N].
            centroids: of each level, float32 [K, D].
        """
        tasks = self._branch_tasks(labels)
        states = self._finished_tasks(len(tasks))
        shared = self.pool.share(centroids)
        missing = []
        calls = []
        for number, rows in enumerate(tasks):
            if number not in states:
                missing.append(number)
                calls.append((self.source, rows, labels[rows], shared, self.balanced))
        with self._bar("branches", len(tasks), "task", len(states)) as bar:
            results = self.pool.map("descend", calls)
            for number, (task_codes, task_errors) in zip(missing, results, strict=True):
                states[number] = {"codes": task_codes, "errors": task_errors}
                self.checkpoint.save(self._task_name(number), states[number])
                bar.update(1)
        shape = (self.items, self.height)
        codes = np.empty(shape, dtype=np.int32)
        errors = np.empty(shape, dtype=np.float32)
        for number, rows in enumerate(tasks):
            codes[rows] = states[number]["codes"]
            errors[rows] = states[number]["errors"]
        return codes, errors

    def _branch_tasks(self, labels: np.ndarray) -> list[np.ndarray]:
        """Return the rows of each task: whole branches, one after another, to a range's size."""
        branch_ends = np.cumsum(np.bincount(labels))
        _, size = self.shards.row_ranges[0]
        targets = np.arange(size, self.items, size)
        cuts = branch_ends[np.searchsorted(branch_ends, targets)]
        by_branch = np.argsort(labels, kind="stable")
        tasks = np.split(by_branch, np.unique(cuts))
        return [rows for rows in tasks if len(rows)]

    def _finished_tasks(self, count: int) -> dict[int, State]:
        """Return the states of the tasks that an earlier run of this build has finished."""
        states = {}
        for number in range(count):
            state = self.checkpoint.load(self._task_name(number))
            if state is not None:
                states[number] = state
        return states

    def _task_name(self, number: int) -> str:
        return f"{self.source}-branches-{number}"

    def _map_ranges(
        self,
        method: str,
        codebook: torch.Tensor,
        prices: torch.Tensor,
    ) -> Iterator[Any]:
        """Yield a worker method's result for every range of rows, in their order."""
        shared_codebook = self.pool.share(codebook.cpu().numpy())
        shared_prices = self.pool.share(prices.cpu().numpy())
        calls = []
        for start, stop in self.shards.row_ranges:
            calls.append((self.source, start, stop, shared_codebook, shared_prices))
        return self.pool.map(method, calls)

    def _add_up(self, range_sums: Iterator[tuple[np.ndarray, np.ndarray]]) -> ClusterSums:
        """Add up in the order of the ranges, in double: the same for any number of workers."""
        total, count = next(range_sums)
        total = total.astype(np.float64)
        for range_total, range_count in range_sums:
            total += range_total
            count = count + range_count
        return ClusterSums(self._tensor(total), self._tensor(count))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self.device)

    def _bar(
        self,
        task: str,
        total: int,
        unit: str,
        done: int,
    ) -> Any:
        description = f"{self.source} index: {task}"
        return progress(total=total, initial=done, desc=description, unit=unit)
