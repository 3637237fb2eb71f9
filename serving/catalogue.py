"""Answers from the catalogue and the index alone, without the model."""

from collections.abc import Collection

from eager_llm.bundle.bundle import Bundle
from eager_llm.core.short_text import shortened
from eager_llm.decoding.filters import Filter
from serving.errors import ApiError
from serving.schemas.answers import SimilarItem


def item_row(bundle: Bundle, item_id: str) -> int:
    """Return the row of an item in the index.

    Raises:
        ApiError: the bundle does not know the item.
    """
    row = bundle.recommender.index.rows.get(item_id)
    if row is None:
        raise ApiError(
            "unknown_item", f"the bundle knows no item {shortened(item_id)!r}", "item_id"
        )
    return row


def matching_items(
    bundle: Bundle, words: str, k: int, conditions: Filter, excluded: Collection[str]
) -> list[str]:
    """Return items whose titles hold the words, and the most popular items after them.

    Raises:
        UserError: a condition does not fit the catalogue.
    """
    passes = bundle.passing(conditions)
    # As many more as may have to be left out.
    found = bundle.keyword_search.find(words, k + len(excluded), passes)
    matches = [item for item in found if item not in excluded][:k]
    if len(matches) == k:
        return matches
    popular = bundle.popular(k - len(matches), conditions, {*excluded, *matches})
    return matches + popular


def similar_items(
    bundle: Bundle, row: int, k: int, source: str | None, conditions: Filter
) -> list[SimilarItem]:
    """Return the items nearest to a row of the index, nearest first.

    Args:
        source: one source of the index; None: all.

    Raises:
        UserError: a condition does not fit the catalogue.
    """
    recommender = bundle.recommender
    passes = recommender.columns.passing(conditions) if conditions else None
    items: list[SimilarItem] = []
    for nearest in bundle.nearest_items.nearest(row, k, source, passes):
        item_id = recommender.index.item_ids[nearest.row]
        item = SimilarItem(
            item_id=item_id,
            title=bundle.title(item_id),
            distance=nearest.distance,
            shared_levels=nearest.shared,
        )
        items.append(item)
    return items


def shortfall(count: int, k: int, kind: str = "") -> str | None:
    """Return why fewer than k items came, or None where k came."""
    if count == k:
        return None
    return f"only {count} such {kind}items are in the index"
