"""What follows what in a log."""

from scipy.sparse import csr_matrix


def co_occurrence_counts(histories: list[list[int]], items: int, window: int) -> csr_matrix:
    """Count directed pairs of items at most `window` apart, weighted by 1 / gap.

    Args:
        histories: item numbers, oldest first.

    Returns:
        Sparse float [items, items]: how much the column's item followed the row's.
    """
    rows, columns, weights = [], [], []
    for history in histories:
        for gap in range(1, window + 1):
            for earlier, later in zip(history, history[gap:], strict=False):
                rows.append(earlier)
                columns.append(later)
                weights.append(1 / gap)
    return csr_matrix((weights, (rows, columns)), shape=(items, items))
