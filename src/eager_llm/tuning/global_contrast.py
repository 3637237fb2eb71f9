"""Global contrast (GCT): the model's view of an item against the item's own embeddings.

Shapes: E item ends, H hidden width, N sampled negatives, D dimensions of a source's embedding.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class GlobalContrast(nn.Module):
    """Decompression guidance projectors with an InfoNCE loss (EAGER-LLM, section 3.4).

    The projectors exist in training only; none of them is saved with the model.

    Args:
        width: hidden width of the backbone.
        embeddings: source -> frozen float32 [items, D].
        negatives: number of sampled negative items, shared by the batch.
        temperature: of the softmax.
    """

    def __init__(
        self, width: int, embeddings: dict[str, np.ndarray], negatives: int, temperature: float
    ) -> None:
        super().__init__()
        self.negatives = negatives
        self.temperature = temperature
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
        self, hidden: torch.Tensor, items: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return the loss summed over the sources and averaged over the item ends, a scalar.

        Args:
            hidden: [E, H], last hidden states at the item ends.
            items: int64 [E], the row of each item.
            generator: draws the negatives.
        """
        order = torch.randperm(self.items, generator=generator)
        negatives = order[: self.negatives].to(items.device)
        is_own = negatives[None] == items[:, None]
        direction = functional.normalize(hidden.float(), dim=-1)
        loss = hidden.new_zeros(())
        for source, projector in self.projectors.items():
            frozen = getattr(self, f"frozen_{source}")
            projected = functional.normalize(projector(direction), dim=-1)
            loss = loss + info_nce(
                projected, frozen[items], frozen[negatives], is_own, self.temperature
            )
        return loss


def info_nce(
    projected: torch.Tensor,
    positives: torch.Tensor,
    negatives: torch.Tensor,
    is_own: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Return the InfoNCE loss averaged over the item ends, a scalar (van den Oord et al. 2018).

    The loss of one item end is -log(exp(g.e/t) / (exp(g.e/t) + sum over its negatives)).

    Args:
        projected: [E, D], g, of length 1.
        positives: [E, D], e, the items' own embeddings, of length 1.
        negatives: [N, D], of length 1.
        is_own: bool [E, N], where a negative is the item itself, which is left out.
        temperature: t.
    """
    positive = (projected * positives).sum(-1) / temperature
    logits = projected @ (negatives.T / temperature)
    logits = logits.masked_fill(is_own, -torch.inf)
    # softplus(b - a) = -log(exp(a) / (exp(a) + exp(b))), without a copy of all negatives.
    return functional.softplus(logits.logsumexp(1) - positive).mean()
