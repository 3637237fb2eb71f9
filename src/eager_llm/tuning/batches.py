"""Padded batches of about equal work, in an order that a seed decides."""

from dataclasses import dataclass

import numpy as np
import torch

from eager_llm.prompts.builder import Example


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right; with a causal model no attention mask is needed.

    Attributes:
        ids: int64 [batch, length].
        loss_mask: bool [batch, length], the tokens whose prediction counts.
        closing_row, closing_position, closing_item: int64 [answers].
    """

    ids: torch.Tensor
    loss_mask: torch.Tensor
    closing_row: torch.Tensor
    closing_position: torch.Tensor
    closing_item: torch.Tensor

    def to(self, device: str | torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(*(tensor.to(device) for tensor in vars(self).values()))


def plan_batches(
    examples: list[Example], batch_tokens: int, rng: np.random.Generator
) -> list[list[int]]:
    """Group examples of alike length into batches of at most `batch_tokens` padded tokens.

    An example longer than that is a batch of its own. The batches come in random order.
    """
    lengths = np.array([len(example.ids) for example in examples])
    # A random order first, so that examples of one length meet others each epoch.
    order = rng.permutation(len(examples))
    order = order[np.argsort(lengths[order], kind="stable")]
    batches: list[list[int]] = [[]]
    for number in order:
        if batches[-1] and (len(batches[-1]) + 1) * lengths[number] > batch_tokens:
            batches.append([])
        batches[-1].append(int(number))
    return [batches[number] for number in rng.permutation(len(batches))]


def collate(examples: list[Example], padding: int) -> Batch:
    """Pad examples into one batch."""
    length = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), length), padding)
    loss_mask = torch.zeros(len(examples), length, dtype=torch.bool)
    item_end_positions = []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        loss_mask[row, : len(example.ids)] = torch.tensor(example.learn)
        item_end_positions += [
            (row, position, item) for position, item in example.item_end_positions
        ]
    answers = torch.tensor(item_end_positions, dtype=torch.long).reshape(-1, 3)
    return Batch(ids, loss_mask, answers[:, 0], answers[:, 1], answers[:, 2])
