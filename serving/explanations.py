"""The explanation of a recommended item: its path, and the nearest items of the history."""

import math

import numpy as np

from eager_llm.bundle.bundle import Bundle
from serving.schemas.answers import Explanation, HistoryNeighbour, IndexToken, PathToken


def explain(
    bundle: Bundle, item_id: str, level_scores: list[float], history: list[str]
) -> Explanation:
    """Return the path of an item with the factors of its score, and its neighbours in the history.

    Args:
        level_scores: of each token of the path: its share of the item's score, a logarithm.
        history: item ids that the index knows.
    """
    path: list[PathToken] = []
    for token, score in zip(index_path(bundle, item_id), level_scores, strict=True):
        factor = math.exp(score)
        path.append(PathToken(**token.model_dump(), probability=factor))
    return Explanation(path=path, neighbours=_history_neighbours(bundle, item_id, history))


def index_path(bundle: Bundle, item_id: str) -> list[IndexToken]:
    """Return the tokens of an item, each with its source and its level in the source."""
    index = bundle.recommender.index
    tokens = index.tokens(item_id)
    path: list[IndexToken] = []
    for position, (token, source) in enumerate(zip(tokens, index.sources, strict=True)):
        level = position - index.levels_of[source].start + 1
        path.append(IndexToken(token=token, source=source, level=level))
    return path


def _history_neighbours(bundle: Bundle, item_id: str, history: list[str]) -> list[HistoryNeighbour]:
    """Return the item of the history that is nearest to an item, for each source of the index."""
    index = bundle.recommender.index
    row = index.rows[item_id]
    history_rows = {index.rows[item] for item in history} - {row}
    if not history_rows:
        return []
    candidates = np.array(sorted(history_rows), dtype=np.int64)
    neighbours: list[HistoryNeighbour] = []
    for source in index.levels_of:
        (nearest,) = bundle.near.among(row, candidates, 1, source)
        neighbour_id = index.item_ids[nearest.row]
        neighbour = HistoryNeighbour(
            item_id=neighbour_id,
            title=bundle.title(neighbour_id),
            source=source,
            shared_levels=nearest.shared[source],
            distance=nearest.distance,
        )
        neighbours.append(neighbour)
    return neighbours
