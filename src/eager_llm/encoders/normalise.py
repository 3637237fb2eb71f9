"""Rows of length 1, also for items about which a source knows nothing."""

import numpy as np

from eager_llm.core.progress import say


def unit_rows(embedding: np.ndarray, source: str) -> np.ndarray:
    """Scale every row to length 1; a zero row gets the direction of the others' mean.

    A row is zero where the source knows nothing of its item.

    Args:
        embedding: float [items, dim], at least one row not zero.
        source: of the embedding, as the message calls it.

    Returns:
        float32 [items, dim].
    """
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    is_cold = length[:, 0] == 0
    unit = embedding / np.where(length > 0, length, 1)
    if is_cold.any():
        mean = unit[~is_cold].mean(0)
        if not mean.any():  # the others cancel out: any one direction is as good
            mean = unit[~is_cold][0]
        unit[is_cold] = mean / np.linalg.norm(mean)
        say(
            f"{source} embedding: {int(is_cold.sum())} of {len(unit)} items are unknown to it "
            "and take the mean of the others"
        )
    return np.asarray(unit, dtype=np.float32)
