"""Items about which a source knows nothing."""

import numpy as np

from eager_llm.core.progress import say


def unit_rows(embedding: np.ndarray, source: str) -> np.ndarray:
    """Scale every row to length 1; a zero row, of an item the source knows nothing of, takes the mean's direction.

    Args:
        embedding: float [items, dim], at least one row not zero.

    Returns:
        float32 [items, dim].
    """
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    cold = length[:, 0] == 0
    unit = embedding / np.where(length > 0, length, 1)
    if cold.any():
        mean = unit[~cold].mean(0)
        if not mean.any():  # the others cancel out: any one direction is as good
            mean = unit[~cold][0]
        unit[cold] = mean / np.linalg.norm(mean)
        say(
            f"{source} embedding: {int(cold.sum())} of {len(unit)} items are unknown to it and take the mean of the others"
        )
    return np.asarray(unit, dtype=np.float32)
