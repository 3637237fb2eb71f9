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
    tokens = index_path(bundle, item_id)
    for token, score in zip(tokens, level_scores, strict=True):
        path_token = PathToken(
            token=token.token,
            source=token.source,
            level=token.level,
            probability=math.exp(score),
        )
        path.append(path_token)
    neighbours = _history_neighbours(bundle, item_id, history)
    return Explanation(path=path, neighbours=neighbours)


def index_path(bundle: Bundle, item_id: str) -> list[IndexToken]:
    """Return the tokens of an item, each with its source and its level in the source."""
    index = bundle.recommender.index
    tokens = index.tokens(item_id)
    path: list[IndexToken] = []
    for position, (token, source) in enumerate(zip(tokens, index.sources, strict=True)):
        first_position = index.levels_of[source].start
        level = position - first_position + 1
        path.append(IndexToken(token=token, source=source, level=level))
    return path


def _history_neighbours(bundle: Bundle, item_id: str, history: list[str]) -> list[HistoryNeighbour]:
    """Return the item of the history that is nearest to an item, for each source of the index.

    The item itself does not count. Nothing else in the history: no neighbours.
    """
    index = bundle.recommender.index
    row = index.rows[item_id]
    history_rows = {index.rows[item] for item in history} - {row}
    if not history_rows:
        return []
    candidates = np.array(sorted(history_rows), dtype=np.int64)
    neighbours: list[HistoryNeighbour] = []
    for source in index.levels_of:
        nearest = bundle.nearest_items.among(row, candidates, k=1, source=source)[0]
        nearest_id = index.item_ids[nearest.row]
        neighbour = HistoryNeighbour(
            item_id=nearest_id,
            title=bundle.title(nearest_id),
            source=source,
            shared_levels=nearest.shared[source],
            distance=nearest.distance,
        )
        neighbours.append(neighbour)
    return neighbours
