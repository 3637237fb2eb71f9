"""Item-to-item weights by regression: what one item's presence says of another's, others fixed."""

from itertools import chain
from math import ceil, exp

import numpy as np
import torch

from eager_llm.core.errors import UserError
from eager_llm.item_prior.cooccurrence import cooccurrence_counts

# Four matrices of them squared are in memory at a time, 6.4 GB.
MAX_ITEMS = 20_000
# Spans after which a pair counts next to nothing, and is not counted.
MAX_SPANS = 8


def ease_weights(
    histories: list[list[int]],
    items: int,
    ridge: float,
    span: float,
) -> np.ndarray:
    """Regress every item on all others, with a closed form.

    The weights of EASE (Steck, WWW 2019): B = I - P / diag(P), with P the inverse of G + ridge · I.
    G there counts in how many histories two items are together. Here two choices that are `gap`
    apart count exp(-gap / span), so that what was chosen at another time of life says less.

    Args:
        histories: the training split of each user as item rows.
        items: number of items.
        ridge: of the regression.
        span: in choices.

    Returns:
        What the row's item says of the column's, float32 [items, items]: zero on the diagonal, and
        below zero where one item speaks against another.

    Raises:
        UserError: there are more items than a dense matrix should have, or the ridge is too small
            for float32.
    """
    if items > MAX_ITEMS:
        raise UserError(
            f"item_prior.behaviour = 'ease' inverts a matrix of {items:,} x {items:,} items; at "
            f"most {MAX_ITEMS:,} are possible: choose item_prior.behaviour=cooccurrence"
        )
    gram = _pair_weights(histories, items, span)
    occurrences = list(chain.from_iterable(histories))
    counts = np.bincount(occurrences, minlength=items).astype(np.float32)
    gram.diagonal().add_(torch.from_numpy(counts) + ridge)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise UserError(
            f"item_prior.ridge = {ridge:g}: too small for the counts of this log; "
            "choose a larger one"
        )
    precision = torch.cholesky_inverse(factor)
    weights = -precision / precision.diagonal()
    return weights.fill_diagonal_(0).numpy()


def _pair_weights(
    histories: list[list[int]],
    items: int,
    span: float,
) -> torch.Tensor:
    """Return what the pairs of two items count together, float32 [items, items]."""
    window = ceil(MAX_SPANS * span)
    later = cooccurrence_counts(histories, items, window, lambda gap: exp(-gap / span))
    symmetric = (later + later.T).astype(np.float32)
    return torch.from_numpy(symmetric.toarray())
