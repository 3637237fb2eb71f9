"""What follows what in a log."""

from collections.abc import Callable

from scipy.sparse import csr_matrix


def cooccurrence_counts(
    histories: list[list[int]],
    items: int,
    window: int,
    weight: Callable[[int], float] = lambda gap: 1 / gap,
) -> csr_matrix:
    """Count directed pairs of items at most `window` apart.

    Args:
        histories: item numbers, oldest first.
        weight: what a pair counts, by its gap.

    Returns:
        Sparse float [items, items]: how much the column's item followed the row's.
    """
    rows, columns, weights = [], [], []
    for history in histories:
        for gap in range(1, min(window, len(history) - 1) + 1):
            counted = weight(gap)
            for earlier, later in zip(history, history[gap:], strict=False):
                rows.append(earlier)
                columns.append(later)
                weights.append(counted)
    return csr_matrix((weights, (rows, columns)), shape=(items, items))
