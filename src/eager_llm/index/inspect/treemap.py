"""A picture of a tree: a treemap with similar branches side by side in similar colours."""

import io
from dataclasses import dataclass

import numpy as np

from eager_llm.index.inspect.nodes import Nodes

# Of the picture, in pixels.
WIDTH = 1600
HEIGHT = 960
# Cells wider than this have a gap of a pixel between them.
GAP_FROM = 12
# Nodes of a level; more would each be smaller than a few pixels.
MAX_CELLS = 1 << 17
# Main axes of the centroids that a picture shows.
AXES = 3
# From Oklab to the cones' responses, and from those to linear sRGB (Ottosson, 2020), transposed.
OKLAB_TO_CONES = np.array([
    [1, 1, 1],
    [0.3963377774, -0.1055613458, -0.0894841775],
    [0.2158037573, -0.0638541728, -1.2914855480],
])  # fmt: skip
CONES_TO_RGB = np.array([
    [4.0767416621, -1.2684380046, -0.0041960863],
    [-3.3077115913, 2.6097574011, -0.7034186147],
    [0.2309699292, -0.3413193965, 1.7076147010],
])  # fmt: skip


@dataclass(frozen=True)
class Treemap:
    """The first two levels of a tree as a picture; an area is a number of items.

    Attributes:
        png: the picture, a cell a node.
        boxes: left, top, width and height of each first-level node in a picture of 1 x 1, float
            [nodes, 4].
        depth: levels in the picture.
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
        centroids: of each level, float32 [k, dim]; empty draws in the order of the labels, in one
            colour.
    """
    project = _Projection(levels[0], centroids)
    aspect = HEIGHT / WIDTH
    top = levels[0]
    top_positions = project(0, top.label)
    whole = np.array([[0.0, 0.0, 1.0, 1.0]])
    boxes = lay_out(
        boxes=whole,
        parent=top.parent,
        weight=top.size,
        position=top_positions[:, :2],
        aspect=aspect,
    )
    if len(levels) == 1 or len(levels[1].size) > MAX_CELLS:
        png = _png(boxes, _colours(top_positions))
        return Treemap(png, boxes, depth=1)
    below = levels[1]
    offset = project(1, below.label)
    cells = lay_out(
        boxes=boxes,
        parent=below.parent,
        weight=below.size,
        position=offset[:, :2],
        aspect=aspect,
    )
    positions = top_positions[below.parent] + offset
    png = _png(cells, _colours(positions))
    return Treemap(png, boxes, depth=2)


def lay_out(
    boxes: np.ndarray,
    parent: np.ndarray,
    weight: np.ndarray,
    position: np.ndarray,
    aspect: float,
) -> np.ndarray:
    """Share boxes out among their nodes, each as large as its weight and near its position.

    A box is halved across its longer side until each half is one node's: nodes of low coordinates
    to one half, of high ones to the other (an ordered treemap: Wood & Dykes, 2008). All boxes are
    halved at once.

    Args:
        boxes: left, top, width and height, float [parents, 4].
        parent: the box that a node lies in, int [nodes].
        weight: above zero, [nodes].
        position: where a node should lie, float [nodes, 2].
        aspect: height of a unit of y by the width of a unit of x.

    Returns:
        The box of each node, float [nodes, 4].
    """
    result = boxes[parent].astype(float)
    # The box that a node shares with others for now.
    cell = np.unique(parent, return_inverse=True)[1]
    while len(result) > cell.max() + 1:
        # The axis that is cut: 1 where the box is higher than wide, else 0.
        width = result[:, 2]
        height = result[:, 3] * aspect
        axis = (height > width).astype(int)
        coordinate = np.take_along_axis(position, axis[:, None], axis=1)
        order = np.lexsort((coordinate[:, 0], cell))
        result[order], in_second = _halve(
            boxes=result[order],
            cell=cell[order],
            axis=axis[order],
            weight=weight[order],
        )
        next_cell = np.empty_like(cell)
        next_cell[order] = cell[order] * 2 + in_second
        cell = np.unique(next_cell, return_inverse=True)[1]
    return result


def _halve(
    boxes: np.ndarray,
    cell: np.ndarray,
    axis: np.ndarray,
    weight: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut each cell in two by the weight of its nodes.

    Args:
        boxes: of the nodes, which lie cell after cell and by their coordinate, float [nodes, 4].
        cell: of each node, int [nodes].
        axis: that the node's cell is cut along, int [nodes].
        weight: of each node, [nodes].

    Returns:
        The boxes of the nodes' halves, float [nodes, 4], and whether that is the second half, bool
        [nodes].
    """
    total = np.bincount(cell, weight)
    count = np.bincount(cell)
    # Within its cell: what lies before the middle of each node, and its rank.
    weight_before_cell = np.cumsum(total) - total
    weight_up_to = np.cumsum(weight) - np.repeat(weight_before_cell, count)
    nodes_before_cell = np.cumsum(count) - count
    rank = np.arange(len(cell)) - np.repeat(nodes_before_cell, count)
    middle = weight_up_to - weight / 2
    is_behind = middle > total[cell] / 2
    # Neither half is empty: the first node is in the first, the last in the second.
    is_last = rank == count[cell] - 1
    in_second = (is_behind | is_last) & (rank > 0)
    first_weight = np.bincount(cell, weight * ~in_second)
    share = (first_weight / total)[cell]
    halved = boxes.copy()
    row = np.arange(len(halved))
    extent = 2 + axis
    first_extent = share * halved[row, extent]
    halved[row, axis] += np.where(in_second, first_extent, 0)
    halved[row, extent] *= np.where(in_second, 1 - share, share)
    return halved, in_second


class _Projection:
    """Positions of centroids on the main axes of the first level, in standard deviations there.

    Args:
        top: the nodes of the first level.
        centroids: of each level, float32 [k, dim], or none.
    """

    def __init__(
        self,
        top: Nodes,
        centroids: list[np.ndarray],
    ) -> None:
        self.centroids = centroids
        if not centroids:
            return
        points = centroids[0][top.label]
        self.middle = points.mean(0)
        self.axes = _main_axes(points)

    def __call__(
        self,
        level: int,
        labels: np.ndarray,
    ) -> np.ndarray:
        """Return the positions of labels of a level, float [labels, 3]."""
        if not self.centroids:
            return np.zeros((len(labels), AXES))
        points = self.centroids[level][labels]
        if level == 0:
            points = points - self.middle
        return points @ self.axes


def _main_axes(points: np.ndarray) -> np.ndarray:
    """Return the main axes of points [n, dim] by their standard deviations, float [dim, 3].

    An axis along which they do not differ is zero.
    """
    from sklearn.decomposition import PCA

    axes = np.zeros((points.shape[1], AXES))
    spread = points.std(0).max()
    if len(points) == 1 or not spread > 0:
        return axes
    width = min(AXES, *points.shape)
    pca = PCA(width, random_state=0).fit(points)
    scale = np.sqrt(pca.explained_variance_)
    scaled = pca.components_.T / np.maximum(scale, 1e-30)
    differs = scale > 1e-6 * spread
    axes[:, :width] = np.where(differs, scaled, 0)
    return axes


def _colours(positions: np.ndarray) -> np.ndarray:
    """Return sRGB colours uint8 [nodes, 3]: two axes are the hue, the third is the lightness.

    In Oklab (Ottosson, 2020), where colours are as far apart as they look.
    """
    axes = np.tanh(positions / 1.5)
    lightness = 0.76 + 0.10 * axes[:, 2]
    green_red = 0.13 * axes[:, 0]
    blue_yellow = 0.13 * axes[:, 1]
    oklab = np.stack([lightness, green_red, blue_yellow], axis=1)
    cones = oklab @ OKLAB_TO_CONES
    linear = (cones**3 @ CONES_TO_RGB).clip(0, 1)
    bright = 1.055 * linear ** (1 / 2.4) - 0.055
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, bright)
    return (255 * srgb + 0.5).astype(np.uint8)


def _png(boxes: np.ndarray, colours: np.ndarray) -> bytes:
    """Return a picture of boxes [nodes, 4] in colours uint8 [nodes, 3]."""
    from matplotlib.image import imsave

    size = np.array([WIDTH, HEIGHT])
    top_left = boxes[:, :2]
    bottom_right = top_left + boxes[:, 2:]
    start = np.rint(top_left * size).astype(int)
    stop = np.rint(bottom_right * size).astype(int)
    has_gap = stop - start > GAP_FROM
    stop -= np.where(has_gap, 1, 0)
    picture = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    corners = zip(start.tolist(), stop.tolist(), colours, strict=True)
    for (left, top), (right, bottom), colour in corners:
        picture[top:bottom, left:right] = colour
    buffer = io.BytesIO()
    imsave(buffer, picture, format="png")
    return buffer.getvalue()
