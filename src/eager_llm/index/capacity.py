"""Capacities: clusters that hold no more than their share, found in bulk.

Two parts. Prices bring the loads of all clusters near their share while the clusters move; a final
placement makes the capacities exact. Neither loops over points or clusters.
"""

from typing import TypeVar

import numpy as np
import torch

PROBED = 2048  # points at a time
Count = TypeVar("Count", int, np.ndarray)


def capacity_of(points: Count, clusters: int) -> Count:
    """Return the size that no cluster may exceed: the points shared out evenly, rounded up."""
    return -(-points // clusters)


def balance_prices(scores: torch.Tensor, start: torch.Tensor, rounds: int) -> torch.Tensor:
    """Return a price for each cluster under which a sample of points spreads evenly.

    The dual of entropic optimal transport from points to clusters of equal weight, by Sinkhorn's
    iterations (Cuturi, NeurIPS 2013). The temperature is a part of the mean gap between a point's
    nearest and second nearest cluster: coarser leaves the loads uneven, finer needs more rounds.

    Args:
        scores: float [sample, clusters], squared distances up to a constant for each point.
        start: float [clusters], prices to go on from.
        rounds: iterations.

    Returns:
        Prices float [clusters], of mean zero; a point goes where `score + price` is least.
    """
    clusters = scores.shape[1]
    if clusters < 2:
        return torch.zeros_like(start)
    nearest = scores[:PROBED].topk(2, dim=1, largest=False).values
    temperature = 0.3 * float((nearest[:, 1] - nearest[:, 0]).mean())
    if temperature <= 0:  # all points are alike: no price tells them apart
        return start
    prices = start
    for _ in range(rounds):
        # In blocks that stay in the cache.
        parts = [
            torch.softmax((part + prices).mul_(-1 / temperature), dim=1).sum(0)
            for part in scores.split(PROBED)
        ]
        load = torch.stack(parts).sum(0) * (clusters / len(scores))
        prices = prices + temperature * load.clamp(min=1e-3).log()
    return prices - prices.mean()


def place(
    cost: torch.Tensor, room: torch.Tensor, group: torch.Tensor | None = None
) -> torch.Tensor:
    """Assign each row to a column, cheap ones first, no column beyond its room.

    Deferred acceptance (Gale & Shapley, 1962) in bulk: all refused rows ask for the cheapest column
    that has not refused them yet, each column keeps as many of the cheapest as it has room for. The
    result is stable, and does not depend on the order of the rows but for equal costs.

    Args:
        cost: float [rows, columns]; used up.
        room: int [groups, columns], rows that each group's column can take.
        group: int64 [rows], the group of each row; without it all are of group 0.

    Returns:
        Column of each row, int64 [rows].

    Raises:
        ValueError: a group has more rows than room.
    """
    rows, columns = cost.shape
    group = torch.zeros(rows, dtype=torch.long, device=cost.device) if group is None else group
    room = room.to(cost.device).expand(-1, columns)
    members = torch.bincount(group, minlength=len(room))
    if (members > room.sum(1)).any():
        worst = int((members - room.sum(1)).argmax())
        raise ValueError(
            f"{int(members[worst])} rows do not fit into room for {int(room[worst].sum())}"
        )
    cost.masked_fill_((room <= 0)[group], torch.inf)
    room = room.reshape(-1)
    price, column = cost.min(1)
    while True:
        slot = group * columns + column
        full = torch.bincount(slot, minlength=len(room)) > room
        asking = full[slot].nonzero()[:, 0]
        if len(asking) == 0:
            return column
        # The rank of each asking row within its slot: by price, then stably by slot.
        asking = asking[price[asking].argsort(stable=True)]
        asking = asking[slot[asking].argsort(stable=True)]
        wanted = slot[asking]
        rank = torch.arange(len(asking), device=cost.device) - torch.searchsorted(wanted, wanted)
        refused = asking[rank >= room[wanted]]
        cost[refused, column[refused]] = torch.inf
        price[refused], column[refused] = cost[refused].min(1)
