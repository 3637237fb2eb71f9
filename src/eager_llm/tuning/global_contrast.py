"""Global contrast decompression (GCT): the model's view of an item against the item's own embeddings."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class GlobalContrast(nn.Module):
    """Decompression guidance projectors with an InfoNCE loss (EAGER-LLM, section 3.4).

    The projectors exist in training only; nothing of them is saved with the model.

    Args:
        width: hidden width of the backbone.
        embeddings: source -> frozen float32 [items, dim].
        negatives: sampled negative items, shared by the batch.
        temperature: of the softmax.
    """

    def __init__(
        self, width: int, embeddings: dict[str, np.ndarray], negatives: int, temperature: float
    ) -> None:
        super().__init__()
        self.negatives, self.temperature = negatives, temperature
        self.items = len(next(iter(embeddings.values())))
        self.projectors = nn.ModuleDict()
        for source, embedding in embeddings.items():
            dim = embedding.shape[1]
            self.projectors[source] = nn.Sequential(
                nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim)
            )
            frozen = functional.normalize(torch.tensor(embedding), dim=1)
            self.register_buffer(f"frozen_{source}", frozen, persistent=False)

    def forward(
        self, hidden: torch.Tensor, rows: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return the loss summed over the sources, averaged over the answers.

        Args:
            hidden: [answers, width], last hidden states at the closing tokens.
            rows: int64 [answers], the item that each answer names.
            generator: draws the negatives.
        """
        drawn = torch.randperm(self.items, generator=generator)[: self.negatives].to(rows.device)
        direction = functional.normalize(hidden.float(), dim=-1)
        loss = hidden.new_zeros(())
        for source, projector in self.projectors.items():
            frozen = getattr(self, f"frozen_{source}")
            guided = functional.normalize(projector(direction), dim=-1)
            loss = loss + info_nce(
                guided, frozen[rows], frozen[drawn], drawn[None] == rows[:, None], self.temperature
            )
        return loss


def info_nce(
    guided: torch.Tensor,
    own: torch.Tensor,
    others: torch.Tensor,
    same: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Return -log(exp(g.e/t) / (exp(g.e/t) + sum over negatives)), averaged over the answers.

    Args:
        guided: [answers, dim], length 1.
        own: [answers, dim], the items' own embeddings, length 1.
        others: [negatives, dim], length 1.
        same: bool [answers, negatives], where a drawn negative is the answer itself: left out.
    """
    positive = (guided * own).sum(-1) / temperature
    negative = (guided @ (others.T / temperature)).masked_fill(same, -torch.inf)
    return functional.softplus(
        negative.logsumexp(1) - positive
    ).mean()  # the same, without a copy of all negatives
