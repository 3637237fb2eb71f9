"""The leaves of a tree that no item has, and which of them is nearest to a point.

Shapes: N points, L levels, K labels of a level, D dimensions of the embedding.
"""

import numpy as np
import torch

from eager_llm.index.descent import descend
from eager_llm.index.paths import path_keys

# Points that get their leaves at a time; those leaves are not free for the next.
BATCH_POINTS = 8192


class FreeLeaves:
    """The leaves of one source's tree that no item has.

    Args:
        codes: the paths in use, int [items, L].
        codebooks: of each level, float32 [K, D].
    """

    def __init__(
        self,
        codes: np.ndarray,
        codebooks: list[np.ndarray],
    ) -> None:
        self.branching = len(codebooks[0])
        self.height = len(codebooks)
        self._codebooks = []
        for codebook in codebooks:
            contiguous = np.ascontiguousarray(codebook)
            self._codebooks.append(torch.from_numpy(contiguous))
        self._used_keys = np.sort(path_keys(codes, self.branching))

    def __len__(self) -> int:
        return self.branching**self.height - len(self._used_keys)

    def assign(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give each point the free leaf nearest to it, level by level; that leaf is then in use.

        Args:
            points: float32 [N, D].

        Returns:
            Codes int32 [N, L] and errors float32 [N, L].

        Raises:
            ValueError: there are fewer free leaves than points.
        """
        all_codes = [np.empty((0, self.height), dtype=np.int32)]
        all_errors = [np.empty((0, self.height), dtype=np.float32)]
        for start in range(0, len(points), BATCH_POINTS):
            batch = torch.tensor(points[start : start + BATCH_POINTS])
            codes, errors = descend(batch, self._codebooks, self._room)
            all_codes.append(codes)
            all_errors.append(errors)
            self._use(codes)
        return np.concatenate(all_codes), np.concatenate(all_errors)

    def _use(self, codes: np.ndarray) -> None:
        """Take leaves [N, L] out of the free ones."""
        keys = np.sort(path_keys(codes, self.branching))
        positions = np.searchsorted(self._used_keys, keys)
        self._used_keys = np.insert(self._used_keys, positions, keys)

    def _room(
        self,
        level: int,
        parents: np.ndarray,
        sizes: np.ndarray,
    ) -> np.ndarray:
        """Return the free leaves below each child of the parents, int [parents, K].

        Args:
            parents: codes of the parents, int [parents, level].
            sizes: points of each parent; they do not matter for the room.
        """
        leaves_below = self.branching ** (self.height - 1 - level)
        parent_keys = path_keys(parents, self.branching)[:, None]
        # Keys of the children, and of the first child of the next parent behind them.
        child_keys = parent_keys * self.branching + np.arange(self.branching + 1)
        first_leaf = child_keys * leaves_below
        used = np.diff(np.searchsorted(self._used_keys, first_leaf), axis=1)
        return leaves_below - used
