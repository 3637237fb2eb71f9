"""Item-to-item weights by regression: how much one item's presence says of another's, the others held fixed."""

from math import ceil, exp

import numpy as np
import torch

from eager_llm.core.errors import UserError
from eager_llm.item_prior.cooccurrence import cooccurrence_counts

# Four matrices of them squared are in memory at a time, 6.4 GB.
MOST_ITEMS = 20_000
# Spans after which a pair counts next to nothing, and is not counted.
SPANS = 8


def ease_weights(histories: list[list[int]], items: int, ridge: float, span: float) -> np.ndarray:
    """Regress every item on all others, with a closed form.

    The weights of EASE (Steck, WWW 2019): B = I - P / diag(P), with P the inverse of G + ridge · I. G there
    counts in how many histories two items are together; here two choices that are `gap` apart count
    exp(-gap / span), so that what was chosen at another time of life says less.

    Args:
        histories: the training part of each user as item rows.
        ridge: of the regression.
        span: in choices.

    Returns:
        float32 [items, items]: what the row's item says of the column's; zero on the diagonal, and below zero
        where one item speaks against another.

    Raises:
        UserError: there are more items than a dense matrix should have, or the ridge is too small for float32.
    """
    if items > MOST_ITEMS:
        raise UserError(
            f"item_prior.behaviour = 'ease' inverts a matrix of {items:,} x {items:,} items; "
            f"at most {MOST_ITEMS:,} are taken: choose item_prior.behaviour=cooccurrence"
        )
    later = cooccurrence_counts(histories, items, ceil(SPANS * span), lambda gap: exp(-gap / span))
    gram = torch.from_numpy((later + later.T).astype(np.float32).toarray())
    chosen = np.bincount([item for history in histories for item in history], minlength=items)
    gram.diagonal().add_(torch.from_numpy(chosen.astype(np.float32)) + ridge)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise UserError(
            f"item_prior.ridge = {ridge:g}: too small for the counts of this log; choose a larger one"
        )
    precision = torch.cholesky_inverse(factor)
    weights = -precision / precision.diagonal()
    return weights.fill_diagonal_(0).numpy()
