"""Padded batches of about equal work, in an order that a seed decides.

Shapes: B examples of a batch, T tokens of the longest one, E item ends, over all examples.
"""

from dataclasses import dataclass

import numpy as np
import torch

from eager_llm.prompts.builder import Example


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right; with a causal model no attention mask is needed.

    An item end is the last token of an item that an answer names, for the contrast.

    Attributes:
        ids: int64 [B, T], token ids.
        loss_mask: bool [B, T], the tokens whose prediction counts.
        item_end_rows: int64 [E], the example that each item end belongs to.
        item_end_positions: int64 [E], its token in that example.
        item_end_items: int64 [E], the row of the item.
    """

    ids: torch.Tensor
    loss_mask: torch.Tensor
    item_end_rows: torch.Tensor
    item_end_positions: torch.Tensor
    item_end_items: torch.Tensor

    def to(self, device: str | torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(
            self.ids.to(device),
            self.loss_mask.to(device),
            self.item_end_rows.to(device),
            self.item_end_positions.to(device),
            self.item_end_items.to(device),
        )


def plan_batches(
    examples: list[Example], batch_tokens: int, rng: np.random.Generator
) -> list[list[int]]:
    """Group examples of similar length into batches of at most `batch_tokens` padded tokens.

    An example longer than that is a batch of its own.

    Returns:
        The numbers of each batch's examples; the batches come in random order.
    """
    lengths = np.array([len(example.ids) for example in examples])
    # A random order first, so that examples of one length meet others each epoch.
    order = rng.permutation(len(examples))
    order = order[np.argsort(lengths[order], kind="stable")]
    batches: list[list[int]] = [[]]
    for number in order:
        padded_tokens = (len(batches[-1]) + 1) * lengths[number]
        if batches[-1] and padded_tokens > batch_tokens:
            batches.append([])
        batches[-1].append(int(number))
    return [batches[number] for number in rng.permutation(len(batches))]


def collate(examples: list[Example], padding: int) -> Batch:
    """Pad examples into one batch.

    Args:
        padding: id of the token to pad with.
    """
    longest = max(len(example.ids) for example in examples)
    shape = (len(examples), longest)
    ids = torch.full(shape, padding)
    loss_mask = torch.zeros(shape, dtype=torch.bool)
    item_ends: list[tuple[int, int, int]] = []
    for row, example in enumerate(examples):
        length = len(example.ids)
        ids[row, :length] = torch.tensor(example.ids)
        loss_mask[row, :length] = torch.tensor(example.loss_mask)
        for position, item in example.item_end_positions:
            item_ends.append((row, position, item))
    columns = torch.tensor(item_ends, dtype=torch.long).reshape(-1, 3)
    rows, positions, items = columns.unbind(1)
    return Batch(
        ids=ids,
        loss_mask=loss_mask,
        item_end_rows=rows,
        item_end_positions=positions,
        item_end_items=items,
    )
