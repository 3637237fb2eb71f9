"""One source's tree: balanced k-means at the top, residual labels shared by all parents below.

Below the top level a point is described by what its parents leave over (its residual). The labels
of a level come from one codebook of residuals, so that the same label means a similar direction
under every parent; capacities keep each leaf to one item (EAGER-LLM, section 3.3: DKI).

Three builders differ in two things only, what a level sees and how much a label may hold:

- `balanced` (the paper): a label holds its even share of the parent's items.
- `residual` (residual k-means, as in RQ-VAE's tokens): a label holds what the levels below have room for.
- `product` (product quantisation): as `residual`, and each level sees its own slice of the dimensions.

None has collisions: what does not fit under its nearest label goes to the nearest one with room.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eager_llm.core.progress import progress
from eager_llm.index.build_checkpoint import Job
from eager_llm.index.capacity import capacity_of, place
from eager_llm.index.kmeans import (
    EARLY,
    Sums,
    lloyd,
    matmul_precision,
    nearest,
    price_and_move,
    prices_for,
    score,
    some_of,
    start_codebook,
    with_all_labels,
)
from eager_llm.index.ray_pool import Pool
from eager_llm.index.shards import PART_ROWS, Shards
from eager_llm.settings import IndexSettings

SAMPLED = 256  # points of the sample that the lower levels' codebooks are made on, for each label


@dataclass(frozen=True)
class SourceTree:
    """The tree of one source.

    Attributes:
        codes: int32 [items, height], the path of each item; no two are equal.
        errors: float32 [items, height], squared distance from an item to its path's point after each level.
        centroids: a float32 [k, dim] codebook for each level; a path's point is the sum of its centroids.
    """

    codes: np.ndarray
    errors: np.ndarray
    centroids: list[np.ndarray]


def tree_height(items: int, branching: int) -> int:
    """Return the least height with room for every item: ceil(log_k N), in whole numbers."""
    height, room = 1, branching
    while room < items:
        height, room = height + 1, room * branching
    return height


class TreeBuilder:
    """Builds the tree of one source with a pool of workers.

    Args:
        pool: does the parts.
        shards: the embedding, float [items, dim].
        job: keeps what is finished, so that a build that was cut off goes on.
    """

    def __init__(
        self, pool: Pool, shards: Shards, settings: IndexSettings, seed: int, job: Job
    ) -> None:
        self.pool, self.shards, self.settings, self.seed, self.job = (
            pool,
            shards,
            settings,
            seed,
            job,
        )
        self.source, self.items = shards.name, shards.rows
        self.height = tree_height(self.items, settings.branching)
        self.balanced = settings.builder == "balanced"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        count = min(self.items, SAMPLED * settings.branching)
        rows = np.random.default_rng(seed).choice(self.items, count, replace=False)
        self.sample = self._tensor(shards.take(rows))

    def build(self) -> SourceTree:
        """Build the tree: top level, codebooks of the lower levels, then every branch by itself."""
        with matmul_precision(self.settings.precision):
            codebook, prices = self._fit_top()
            labels, codebook = self._place_top(codebook, prices)
            codebooks = self._fit_lower(codebook, prices)
        return SourceTree(*self._place_branches(labels, codebooks))

    def _fit_top(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Run Lloyd's iterations on the sample, then over all points: sums of the parts, new centroids."""
        state = self.job.load(f"{self.source}-top")
        if state is None:
            codebook, prices, done = *self._fit_sample(self.sample, 0), 0
        else:
            codebook, prices, done = (
                self._tensor(state["codebook"]),
                self._tensor(state["prices"]),
                int(state["done"]),
            )
        iterations = self.settings.full_iterations
        with self._bar("top level", iterations, "iteration", done) as bar:
            for number in range(done + 1, iterations + 1):
                sums = self._sum(
                    self._over_parts("lloyd", codebook.cpu().numpy(), prices.cpu().numpy())
                )
                codebook = self._seen(sums.means(codebook), 0)
                prices = self._prices(self.sample, codebook, prices)
                state = {
                    "codebook": codebook.cpu().numpy(),
                    "prices": prices.cpu().numpy(),
                    "done": np.array(number),
                }
                self.job.save(f"{self.source}-top", state)
                bar.update(1)
        return codebook, prices

    def _place_top(
        self, codebook: torch.Tensor, prices: torch.Tensor
    ) -> tuple[np.ndarray, torch.Tensor]:
        """Label all points within the capacity, and move the centroids to their means."""
        found = list(self._over_parts("nearest", codebook.cpu().numpy(), prices.cpu().numpy()))
        labels = np.concatenate([part_labels for part_labels, _ in found])
        self._move_excess(labels, np.concatenate([regret for _, regret in found]), codebook, prices)
        calls = [
            (self.source, *part, labels[slice(*part)], len(codebook)) for part in self.shards.parts
        ]
        return labels, self._seen(self._sum(self.pool.map("sums", calls)).means(codebook), 0)

    def _move_excess(
        self, labels: np.ndarray, regret: np.ndarray, codebook: torch.Tensor, prices: torch.Tensor
    ) -> None:
        """Move what a label holds beyond its capacity, least regret first, to labels with room."""
        below = self.settings.branching ** (self.height - 1)
        capacity = capacity_of(self.items, len(codebook)) if self.balanced else below
        count = np.bincount(labels, minlength=len(codebook))
        order = np.lexsort((-regret, labels))
        rank = np.arange(len(labels)) - np.repeat(np.cumsum(count) - count, count)
        leaving = np.sort(order[rank >= capacity])
        room = np.maximum(capacity - count, 0)
        for start in range(0, len(leaving), PART_ROWS):
            rows = leaving[start : start + PART_ROWS]
            cost = score(
                self._tensor(self.shards.take(rows)), codebook, codebook.square().sum(1) + prices
            )
            labels[rows] = place(cost, torch.from_numpy(room)[None]).cpu().numpy()
            room = room - np.bincount(labels[rows], minlength=len(room))

    def _fit_lower(self, codebook: torch.Tensor, prices: torch.Tensor) -> list[torch.Tensor]:
        """Return the codebooks of all levels, the lower ones made on what the sample has left over."""
        left_over, self.sample = self.sample, self.sample[:0]  # it is large, and not needed again
        codebooks = [with_all_labels(codebook, self.settings.branching)]
        for level in range(1, self.height):
            left_over = left_over.sub_(codebook[nearest(left_over, codebook, prices)[0]])
            codebook, prices = self._fit_sample(left_over, level)
            codebooks.append(with_all_labels(codebook, self.settings.branching))
        return codebooks

    def _fit_sample(self, sample: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a codebook for a sample, float [min(k, sample), dim], and the prices that balance it."""
        settings = self.settings
        clusters = min(settings.branching, len(sample))
        generator = torch.Generator().manual_seed(self.seed * 64 + level)
        restarts = settings.restarts if level == 0 else 1
        codebook = start_codebook(self._seen(sample, level), clusters, restarts, generator)
        prices = codebook.new_zeros(clusters)
        early = settings.iterations * 3 // 4  # far from the end few points say as well where to go
        part = some_of(sample, clusters, EARLY)
        for _ in range(early):
            if self.balanced:
                codebook, prices = price_and_move(part, codebook, prices)
            else:
                codebook = lloyd(part, codebook, prices).means(codebook)
            codebook = self._seen(codebook, level)
        for _ in range(settings.iterations - early):
            prices = self._prices(sample, codebook, prices)
            codebook = self._seen(lloyd(sample, codebook, prices).means(codebook), level)
        return codebook, self._prices(sample, codebook, prices)

    def _place_branches(
        self, labels: np.ndarray, codebooks: list[torch.Tensor]
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Place every branch of the top level in the levels below; a task is some whole branches."""
        arrays = [codebook.cpu().numpy() for codebook in codebooks]
        tasks = self._branch_tasks(labels)
        names = [f"{self.source}-branches-{number}" for number in range(len(tasks))]
        kept = {
            number: state for number, name in enumerate(names) if (state := self.job.load(name))
        }
        missing = [number for number in range(len(tasks)) if number not in kept]
        shared = self.pool.share(arrays)
        calls = [(self.source, tasks[n], labels[tasks[n]], shared, self.balanced) for n in missing]
        with self._bar("branches", len(tasks), "part", len(kept)) as bar:
            for number, found in zip(missing, self.pool.map("descend", calls), strict=True):
                kept[number] = dict(zip(("codes", "errors"), found, strict=True))
                self.job.save(names[number], kept[number])
                bar.update(1)
        codes = np.empty((self.items, self.height), dtype=np.int32)
        errors = np.empty((self.items, self.height), dtype=np.float32)
        for number, rows in enumerate(tasks):
            codes[rows], errors[rows] = kept[number]["codes"], kept[number]["errors"]
        return codes, errors, arrays

    def _branch_tasks(self, labels: np.ndarray) -> list[np.ndarray]:
        """Return the rows of each task: branch after branch, cut where a part's size is reached."""
        ends = np.cumsum(np.bincount(labels))
        size = self.shards.parts[0][1]
        cuts = ends[np.searchsorted(ends, np.arange(size, self.items, size))]
        rows = np.split(np.argsort(labels, kind="stable"), np.unique(cuts))
        return [part for part in rows if len(part)]

    def _over_parts(self, method: str, *shared: np.ndarray) -> Iterator[Any]:
        arguments = [self.pool.share(value) for value in shared]
        return self.pool.map(
            method, [(self.source, *part, *arguments) for part in self.shards.parts]
        )

    def _sum(self, found: Iterator[tuple[np.ndarray, np.ndarray]]) -> Sums:
        # Added up in the order of the parts, in double: the same for any number of workers.
        total, count = next(found)
        total = total.astype(np.float64)
        for part_total, part_count in found:
            total += part_total
            count = count + part_count
        return Sums(self._tensor(total), self._tensor(count))

    def _seen(self, points: torch.Tensor, level: int) -> torch.Tensor:
        """Return what a level sees of points or centroids: all of it, or its slice of the dimensions."""
        if self.settings.builder != "product":
            return points
        mask = torch.zeros(points.shape[1], device=points.device)
        mask[slice(*np.linspace(0, len(mask), self.height + 1, dtype=int)[level : level + 2])] = 1
        return points * mask

    def _prices(
        self, sample: torch.Tensor, codebook: torch.Tensor, start: torch.Tensor
    ) -> torch.Tensor:
        return prices_for(sample, codebook, start) if self.balanced else start

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self.device)

    def _bar(self, what: str, total: int, unit: str, done: int) -> Any:
        return progress(total=total, initial=done, desc=f"{self.source} index: {what}", unit=unit)
