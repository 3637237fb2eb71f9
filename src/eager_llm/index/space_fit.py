"""How a tree fits new embeddings of its items, also where the encoder turned its whole space.

Shapes: N items, L levels, K labels of a level, D dimensions of the embedding.
"""

from dataclasses import dataclass

import numpy as np

# Fits of the new space to the old, each on the items that the one before fitted best.
ROUNDS = 4


@dataclass(frozen=True)
class SpaceFit:
    """Codebooks in the space of new embeddings, and how the paths fit there.

    Attributes:
        codebooks: of each level, float32 [K, D].
        old_errors: errors when the items got their paths, in the new space's scale, float [N, L].
        new_errors: errors with the new embeddings, float [N, L].
        unfit: whether an item is too far from its path's point after a level, bool [N, L].
    """

    codebooks: list[np.ndarray]
    old_errors: np.ndarray
    new_errors: np.ndarray
    unfit: np.ndarray

    @property
    def unfit_items(self) -> int:
        """Items whose path no longer fits at some level."""
        return int(self.unfit.any(axis=1).sum())

    @property
    def drift(self) -> np.ndarray:
        """How much farther each item is from its path's point than it was, float [N]."""
        return self.new_errors[:, -1] - self.old_errors[:, -1]


def best_fit(
    points: np.ndarray,
    codes: np.ndarray,
    codebooks: list[np.ndarray],
    errors: np.ndarray,
    tolerance: float,
) -> SpaceFit:
    """Leave the tree as it is or turn it to the points, whichever leaves fewer paths unfit.

    Args:
        points: the new embeddings, float32 [N, D].
        codes: the paths, int [N, L].
        codebooks: of each level, float32 [K, D].
        errors: when the items got their paths, float32 [N, L].
        tolerance: by how much an error may grow, in mean errors of its level.
    """
    best = _fit_of(points, codes, codebooks, errors, tolerance)
    rows = np.arange(len(points))
    half = -(-len(points) // 2)
    for _ in range(ROUNDS):
        turned, scale = _turn_codebooks(points[rows], codes[rows], codebooks)
        fit = _fit_of(points, codes, turned, errors * scale**2, tolerance)
        if fit.unfit_items < best.unfit_items:
            best = fit
        # The half that fits best shows how the space turned; items that changed would distort it.
        rows = np.argsort(fit.drift, kind="stable")[:half]
    return best


def _fit_of(
    points: np.ndarray,
    codes: np.ndarray,
    codebooks: list[np.ndarray],
    old_errors: np.ndarray,
    tolerance: float,
) -> SpaceFit:
    """Return how the paths fit the points with some codebooks."""
    new_errors = path_errors(points, codes, codebooks)
    limit = old_errors + tolerance * old_errors.mean(0)
    return SpaceFit(codebooks, old_errors, new_errors, new_errors > limit)


def _turn_codebooks(
    points: np.ndarray,
    codes: np.ndarray,
    codebooks: list[np.ndarray],
) -> tuple[list[np.ndarray], float]:
    """Return the codebooks turned, scaled and shifted to the points, and the scale.

    Orthogonal Procrustes (Schönemann, 1966) between the paths' points and the new ones.
    """
    path_points = np.zeros_like(points)
    for level, codebook in enumerate(codebooks):
        path_points += codebook[codes[:, level]]
    middle = path_points.mean(0)
    target = points.mean(0)
    covariance = (path_points - middle).T @ (points - target)
    left, singular, right = np.linalg.svd(covariance)
    turn = left @ right
    spread = float(np.square(path_points - middle).sum())
    scale = float(singular.sum()) / spread if spread else 1.0
    turned = [(scale * codebook @ turn).astype(np.float32) for codebook in codebooks]
    # The first level carries the shift; the others are residuals.
    shifted = turned[0] + target - scale * middle @ turn
    turned[0] = shifted.astype(np.float32)
    return turned, scale


def path_errors(
    points: np.ndarray,
    codes: np.ndarray,
    codebooks: list[np.ndarray],
) -> np.ndarray:
    """Return the squared distance to the path's point after each level, float32 [N, L].

    Args:
        points: float32 [N, D].
        codes: int [N, L].
        codebooks: of each level, float32 [K, D].
    """
    residuals = points.copy()
    errors = np.empty(codes.shape, dtype=np.float32)
    for level, codebook in enumerate(codebooks):
        residuals -= codebook[codes[:, level]]
        errors[:, level] = np.square(residuals).sum(1)
    return errors
