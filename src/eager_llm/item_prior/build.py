"""Building the item prior from its sources: the behaviour in the log, and the words of the items.

Shapes: N items of the index, H histories.
"""

import numpy as np
from scipy.sparse import csr_matrix, diags, vstack

from eager_llm.core.progress import progress
from eager_llm.item_prior.cooccurrence import cooccurrence_counts
from eager_llm.item_prior.ease import ease_weights
from eager_llm.item_prior.table import ItemPriorTable, flatten_histories, is_in_history
from eager_llm.settings import ItemPriorSettings

# Entries of a block of rows of the items' similarity, where every item is similar to every other.
BLOCK_ENTRIES = 1 << 24
# Steps of the log that tell how often people go back to an item.
REPEAT_STEPS = 10_000


def build_item_prior(
    histories: list[list[int]],
    items: int,
    tfidf: csr_matrix | None,
    settings: ItemPriorSettings,
    behaviour: bool = True,
) -> ItemPriorTable:
    """Build the table from the training split and the items' words, or from one of them.

    Behaviour is a regression (`item_prior/ease.py`) or counts. Counts are of what followed at most
    `window` later, weighted by 1 / gap ** `gap_power`; what came before counts `backward` times; a
    row is divided by its sum to the power of `damping`, so that popular items do not dominate.
    Words are the similarity of two items, times `semantic_weight`. Each source keeps the
    `top_items` strongest entries of an item.

    Args:
        histories: the training split of each user as item rows, oldest first.
        items: number of items, N.
        tfidf: of `item_tfidf`, [N, words], or None.
        behaviour: whether behaviour is a source; it tells in any case how often people go back to
            an item.

    Returns:
        The table, with the first of `weights`; validation selects the best one later.
    """
    sources = []
    decays = []
    if behaviour:
        sources.append(_behaviour_source(histories, items, settings))
        decays.append(settings.decay)
    if tfidf is not None and settings.semantic_weight:
        similarity = _similarity(tfidf, settings.top_items)
        sources.append(settings.semantic_weight * similarity)
        decays.append(settings.semantic_decay)
    if not sources:
        sources.append(csr_matrix((items, items)))
        decays.append(settings.decay)
    prior = ItemPriorTable(
        table=vstack(sources).tocsr().astype(np.float32),
        decays=tuple(decays),
        repeats=1.0,
        floor=settings.floor,
        weight=settings.weights[0],
    )
    return prior.with_repeats(_repeat_factor(prior, histories))


def _behaviour_source(
    histories: list[list[int]],
    items: int,
    settings: ItemPriorSettings,
) -> csr_matrix:
    """Return what the log says of pairs of items, [N, N]."""
    if settings.behaviour == "ease":
        return _ease_source(histories, items, settings)
    return _cooccurrence_source(histories, items, settings)


def _cooccurrence_source(
    histories: list[list[int]],
    items: int,
    settings: ItemPriorSettings,
) -> csr_matrix:
    """Return damped counts of what follows what, [N, N]."""
    forward = cooccurrence_counts(
        histories,
        items,
        settings.window,
        lambda gap: gap**-settings.gap_power,
    )
    counts = (forward + settings.backward * forward.T).tocsr()
    sums = np.asarray(counts.sum(axis=1)).ravel()
    factors = np.maximum(sums, 1e-12) ** -settings.damping
    scale = diags(np.where(sums > 0, factors, 0))
    damped = (scale @ counts).tocsr()
    return _strongest(damped, settings.top_items)


def _ease_source(
    histories: list[list[int]],
    items: int,
    settings: ItemPriorSettings,
) -> csr_matrix:
    """Return the strongest weights of the regression, [N, N].

    Nearly all entries go, among them those that speak against an item.
    """
    weights = ease_weights(histories, items, settings.ridge, settings.span)
    top_items = settings.top_items
    for row in weights:
        threshold = 0.0
        if top_items < items:
            threshold = np.partition(row, -top_items)[-top_items]
        row[row < max(threshold, 0.0)] = 0.0
    return csr_matrix(weights)


def _similarity(tfidf: csr_matrix, top_items: int) -> csr_matrix:
    """Return how similar the texts of two items are, [N, N], with zero on the diagonal."""
    items = tfidf.shape[0]
    transposed = tfidf.T.tocsr()
    block_rows = max(1, BLOCK_ENTRIES // items)
    starts = range(0, items, block_rows)
    blocks = []
    for start in progress(starts, desc="items alike", unit="block"):
        block_tfidf = tfidf[start : start + block_rows]
        block = (block_tfidf @ transposed).tocsr()
        item_rows = start + np.arange(block.shape[0])
        entry_rows = np.repeat(item_rows, np.diff(block.indptr))
        is_diagonal = entry_rows == block.indices
        block.data[is_diagonal] = 0
        blocks.append(_strongest(block, top_items))
    return vstack(blocks)


def _strongest(table: csr_matrix, top_items: int) -> csr_matrix:
    """Drop all but the strongest entries of each row.

    Entries that equal the weakest of them stay, too: their number does not decide.
    """
    row_sizes = np.diff(table.indptr)
    for row in np.flatnonzero(row_sizes > top_items):
        start, stop = table.indptr[row : row + 2]
        weights = table.data[start:stop]
        threshold = np.partition(weights, -top_items)[-top_items]
        weights[weights < threshold] = 0
    table.eliminate_zeros()
    return table


def _repeat_factor(prior: ItemPriorTable, histories: list[list[int]]) -> float:
    """Return the factor by which the prior sends people back no more often than they go.

    It is the ratio of the odds at the last steps of the training split: those of a step back to an
    item of the history, to those that the prior gives it; at most 1. Where nobody ever went back,
    as in logs that keep each item once, it is next to nothing.
    """
    with_step = [history for history in histories if len(history) > 1]
    stride = max(1, len(with_step) // REPEAT_STEPS)
    sample = with_step[::stride]
    if not sample:
        return 1.0
    pasts = [history[:-1] for history in sample]
    expected = _expected_repeats(prior, pasts)
    if not 0 < expected < 1:
        return 1.0
    repeats = 0
    for history, past in zip(sample, pasts, strict=True):
        repeats += history[-1] in past
    observed = (repeats + 0.5) / (len(sample) + 1)
    return min(1.0, observed / (1 - observed) * (1 - expected) / expected)


def _expected_repeats(prior: ItemPriorTable, pasts: list[list[int]]) -> float:
    """Return the mean share of a history's scores that its own items have."""
    scores = prior.scores(pasts)
    own_scores = scores.copy()
    in_history = is_in_history(scores, *flatten_histories(pasts))
    own_scores.data[~in_history] = 0
    sums = np.asarray(scores.sum(axis=1)).ravel()
    own_sums = np.asarray(own_scores.sum(axis=1)).ravel()
    if not sums.any():
        return 0.0
    has_scores = sums > 0
    return float((own_sums[has_scores] / sums[has_scores]).mean())
