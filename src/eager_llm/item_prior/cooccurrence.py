"""What follows what in a log."""

from collections.abc import Callable

from scipy.sparse import csr_matrix


def inverse_gap(gap: int) -> float:
    """Return 1 / gap."""
    return 1 / gap


def cooccurrence_counts(
    histories: list[list[int]],
    items: int,
    window: int,
    weight: Callable[[int], float] = inverse_gap,
) -> csr_matrix:
    """Count directed pairs of items at most `window` apart.

    Args:
        histories: item numbers, oldest first.
        items: number of items.
        window: largest gap of a pair, in choices.
        weight: what a pair counts, by its gap.

    Returns:
        How much the column's item followed the row's, sparse float [items, items].
    """
    rows = []
    columns = []
    weights = []
    for history in histories:
        largest_gap = min(window, len(history) - 1)
        for gap in range(1, largest_gap + 1):
            pair_weight = weight(gap)
            for earlier, later in zip(history, history[gap:], strict=False):
                rows.append(earlier)
                columns.append(later)
                weights.append(pair_weight)
    return csr_matrix((weights, (rows, columns)), shape=(items, items))
