"""A picture of a tree: a treemap in which alike branches lie side by side and have alike colours."""

import io
from dataclasses import dataclass

import numpy as np

from eager_llm.index.inspect.nodes import Nodes

WIDTH, HEIGHT = 1600, 960  # pixels
MOST_DRAWN = 1 << 17  # nodes; more would each be smaller than a few pixels


@dataclass(frozen=True)
class Treemap:
    """The first two levels of a tree as a picture; an area is a number of items.

    Attributes:
        png: the picture, a cell a node.
        boxes: float [first-level nodes, 4], left, top, width and height of each, of a picture of 1 x 1.
        depth: levels drawn.
    """

    png: bytes
    boxes: np.ndarray
    depth: int


def draw_treemap(levels: list[Nodes], centroids: list[np.ndarray]) -> Treemap:
    """Draw a tree.

    Centroids are projected on the three main axes of the first level: two of them order the
    branches, all three make the colour.

    Args:
        levels: the nodes of each level.
        centroids: float32 [k, dim] for each level; empty draws in the order of the labels, in one colour.
    """
    project = _Projection(levels[0], centroids)
    top, depth = levels[0], 1
    whole = np.array([[0.0, 0.0, 1.0, 1.0]])
    boxes = lay_out(whole, top.parent, top.size, project(0, top.label)[:, :2], HEIGHT / WIDTH)
    drawn, seen = boxes, project(0, top.label)
    if len(levels) > 1 and len(levels[1].size) <= MOST_DRAWN:
        below, depth = levels[1], 2
        offset = project(1, below.label)
        drawn = lay_out(boxes, below.parent, below.size, offset[:, :2], HEIGHT / WIDTH)
        seen = seen[below.parent] + offset
    return Treemap(_png(drawn, _colours(seen)), boxes, depth)


def lay_out(
    boxes: np.ndarray, parent: np.ndarray, weight: np.ndarray, place: np.ndarray, aspect: float
) -> np.ndarray:
    """Share boxes out among their nodes, each as large as its weight and near its place.

    A box is halved across its longer side until each part is one node's: nodes of low coordinates to
    one half, of high ones to the other (an ordered treemap: Wood & Dykes, 2008). All boxes at once.

    Args:
        boxes: float [parents, 4], left, top, width, height.
        parent: int [nodes], the box that a node lies in.
        weight: [nodes], above zero.
        place: float [nodes, 2], where a node would like to lie.
        aspect: height of a unit of y by the width of a unit of x.

    Returns:
        float [nodes, 4].
    """
    result, part = boxes[parent].astype(float), np.unique(parent, return_inverse=True)[1]
    while len(result) > part.max() + 1:
        down = (result[:, 3] * aspect > result[:, 2]).astype(int)
        order = np.lexsort((np.take_along_axis(place, down[:, None], axis=1)[:, 0], part))
        part, down = part[order], down[order]
        # Inside its part: what lies before the middle of each node, and its rank.
        total, count = np.bincount(part, weight[order]), np.bincount(part)
        before = np.cumsum(weight[order]) - np.repeat(np.cumsum(total) - total, count)
        rank = np.arange(len(part)) - np.repeat(np.cumsum(count) - count, count)
        second = before - weight[order] / 2 > total[part] / 2
        second = (second & (rank > 0)) | ((rank == count[part] - 1) & (rank > 0))
        share = (np.bincount(part, weight[order] * ~second) / total)[part]
        cut = result[order]
        at = np.arange(len(cut))
        cut[at, down] += np.where(second, share * cut[at, 2 + down], 0)
        cut[at, 2 + down] *= np.where(second, 1 - share, share)
        result[order] = cut
        fresh = np.empty_like(part)
        fresh[order] = part * 2 + second
        part = np.unique(fresh, return_inverse=True)[1]
    return result


class _Projection:
    """Positions of centroids on the main axes of the first level, in standard deviations there."""

    def __init__(self, top: Nodes, centroids: list[np.ndarray]) -> None:
        from sklearn.decomposition import PCA

        self.centroids, self.axes, self.middle = centroids, np.zeros((0, 3)), 0.0
        if not centroids:
            return
        points = centroids[0][top.label]
        width = min(3, *points.shape)
        self.axes, self.middle = np.zeros((points.shape[1], 3)), points.mean(0)
        spread = points.std(0).max()
        if len(points) > 1 and spread > 0:
            found = PCA(width, random_state=0).fit(points)
            scale = np.sqrt(found.explained_variance_)
            self.axes[:, :width] = np.where(
                scale > 1e-6 * spread, found.components_.T / np.maximum(scale, 1e-30), 0
            )

    def __call__(self, level: int, labels: np.ndarray) -> np.ndarray:
        if not self.centroids:
            return np.zeros((len(labels), 3))
        return (self.centroids[level][labels] - (self.middle if level == 0 else 0)) @ self.axes


def _colours(seen: np.ndarray) -> np.ndarray:
    """Return sRGB colours uint8 [nodes, 3]: two axes are the hue, the third is the lightness.

    In Oklab (Ottosson, 2020), where colours are as far apart as they look.
    """
    axes = np.tanh(seen / 1.5)
    lightness, a, b = 0.76 + 0.10 * axes[:, 2], 0.13 * axes[:, 0], 0.13 * axes[:, 1]
    cones = np.stack([lightness, a, b], axis=1) @ np.array(
        [
            [1, 1, 1],
            [0.3963377774, -0.1055613458, -0.0894841775],
            [0.2158037573, -0.0638541728, -1.2914855480],
        ]
    )
    linear = cones**3 @ np.array(
        [
            [4.0767416621, -1.2684380046, -0.0041960863],
            [-3.3077115913, 2.6097574011, -0.7034186147],
            [0.2309699292, -0.3413193965, 1.7076147010],
        ]
    )
    linear = linear.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * srgb + 0.5).astype(np.uint8)


def _png(boxes: np.ndarray, colours: np.ndarray) -> bytes:
    from matplotlib.image import imsave

    size = np.array([WIDTH, HEIGHT])
    start = np.rint(boxes[:, :2] * size).astype(int)
    stop = np.rint((boxes[:, :2] + boxes[:, 2:]) * size).astype(int)
    stop -= np.where(stop - start > 12, 1, 0)  # a thin gap, where there is room for one
    picture = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    for (left, top), (right, bottom), colour in zip(
        start.tolist(), stop.tolist(), colours, strict=True
    ):
        picture[top:bottom, left:right] = colour
    buffer = io.BytesIO()
    imsave(buffer, picture, format="png")
    return buffer.getvalue()
