"""Capacities: clusters that hold no more than their share, in bulk.

Two steps. Prices bring the loads of all clusters near their share while the clusters move. A final
assignment makes the capacities exact. Neither loops over points or clusters.

Shapes: N rows (points), K columns (clusters), G groups of rows.
"""

from typing import TypeVar

import numpy as np
import torch

# Points whose scores stay in the cache.
BLOCK_POINTS = 2048
# Of the mean gap between a point's nearest and second nearest cluster: coarser leaves the loads
# uneven, finer needs more rounds.
TEMPERATURE_SHARE = 0.3
Count = TypeVar("Count", int, np.ndarray)


def capacity_of(points: Count, clusters: int) -> Count:
    """Return the size that no cluster may exceed: the points shared out evenly, rounded up."""
    return -(-points // clusters)


def balance_prices(
    scores: torch.Tensor,
    start: torch.Tensor,
    rounds: int,
) -> torch.Tensor:
    """Return a price for each cluster under which a sample of points spreads evenly.

    The dual of entropic optimal transport from points to clusters of equal weight, by Sinkhorn's
    iterations (Cuturi, NeurIPS 2013).

    Args:
        scores: squared distances up to a constant for each point, float [N, K].
        start: prices to go on from, float [K].
        rounds: number of iterations.

    Returns:
        Prices of mean zero, float [K]; a point goes where `score + price` is least.
    """
    clusters = scores.shape[1]
    if clusters < 2:
        return torch.zeros_like(start)
    nearest = scores[:BLOCK_POINTS].topk(2, dim=1, largest=False).values
    gap = nearest[:, 1] - nearest[:, 0]
    temperature = TEMPERATURE_SHARE * float(gap.mean())
    if temperature <= 0:  # all points are alike: no price tells them apart
        return start
    prices = start
    for _ in range(rounds):
        load = _soft_load(scores, prices, temperature) * (clusters / len(scores))
        prices = prices + temperature * load.clamp(min=1e-3).log()
    return prices - prices.mean()


def _soft_load(
    scores: torch.Tensor,
    prices: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Return the points that each cluster attracts, each point shared out by softmax, float [K]."""
    loads = []
    for block in scores.split(BLOCK_POINTS):
        shares = torch.softmax((block + prices).mul_(-1 / temperature), dim=1)
        loads.append(shares.sum(0))
    return torch.stack(loads).sum(0)


def assign_columns(
    cost: torch.Tensor,
    room: torch.Tensor,
    group: torch.Tensor | None = None,
) -> torch.Tensor:
    """Assign each row to a column, cheap ones first, no column beyond its room.

    Deferred acceptance (Gale & Shapley, 1962) in bulk. All refused rows apply to the cheapest
    column that has not refused them yet; each column accepts as many of the cheapest as it has room
    for. The result is stable, and does not depend on the order of the rows but for equal costs.

    Args:
        cost: float [N, K]; overwritten.
        room: rows that each column of a group can hold, int [G, K].
        group: the group of each row, int64 [N]; without it all are of group 0.

    Returns:
        The column of each row, int64 [N].

    Raises:
        ValueError: a group has more rows than room.
    """
    rows, columns = cost.shape
    if group is None:
        group = torch.zeros(rows, dtype=torch.long, device=cost.device)
    room = room.to(cost.device).expand(-1, columns)
    _check_room(room, group)
    cost.masked_fill_((room <= 0)[group], torch.inf)
    room = room.reshape(-1)
    price, column = cost.min(1)
    while True:
        slot = group * columns + column
        is_full = torch.bincount(slot, minlength=len(room)) > room
        applicants = is_full[slot].nonzero()[:, 0]
        if len(applicants) == 0:
            return column
        # By price within each slot: two stable sorts, the first key last.
        applicants = applicants[price[applicants].argsort(stable=True)]
        applicants = applicants[slot[applicants].argsort(stable=True)]
        slots = slot[applicants]
        position = torch.arange(len(applicants), device=cost.device)
        rank = position - torch.searchsorted(slots, slots)
        refused = applicants[rank >= room[slots]]
        cost[refused, column[refused]] = torch.inf
        price[refused], column[refused] = cost[refused].min(1)


def _check_room(room: torch.Tensor, group: torch.Tensor) -> None:
    """Raise ValueError where a group has more rows than its columns [G, K] have room."""
    members = torch.bincount(group, minlength=len(room))
    excess = members - room.sum(1)
    if (excess > 0).any():
        worst = int(excess.argmax())
        rows = int(members[worst])
        capacity = int(room[worst].sum())
        raise ValueError(f"{rows} rows do not fit into room for {capacity}")
