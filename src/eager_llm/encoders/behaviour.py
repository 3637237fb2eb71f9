"""Behaviour embedding: a Deep Interest Network trained on next-item prediction.

The network is DIN (Zhou et al., KDD 2018): a candidate item attends to the user's history through
a small activation unit, and the attended history decides with the candidate. After training, the
item table is the behaviour embedding (EAGER-LLM, section 3.2). Only the training part is used.
"""

import numpy as np
import torch
from torch import nn

from eager_llm.core.errors import UserError
from eager_llm.core.progress import progress
from eager_llm.encoders.normalise import unit_rows
from eager_llm.item_prior.cooccurrence import cooccurrence_counts
from eager_llm.settings import BehaviourSettings

WINDOW = 3  # how far apart two items still count as co-occurring, for the warm start
UNIT = 16  # hidden width of the activation unit


class DeepInterestNetwork(nn.Module):
    """Score candidate items for histories.

    Args:
        items: number of items; row `items` of the table is padding.
        dim: width of the item embedding.
    """

    def __init__(self, items: int, dim: int) -> None:
        super().__init__()
        self.padding = items
        self.table = nn.Embedding(items + 1, dim, padding_idx=items)
        nn.init.normal_(self.table.weight, std=dim**-0.5)
        self.unit_past = nn.Linear(dim, UNIT)
        self.unit_wanted = nn.Linear(dim, UNIT, bias=False)
        self.unit_product = nn.Parameter(torch.randn(UNIT, dim) * dim**-0.5)
        self.unit_out = nn.Sequential(nn.PReLU(), nn.Linear(UNIT, 1))
        self.decision = nn.Sequential(nn.Linear(3 * dim, 64), nn.PReLU(), nn.Linear(64, 1))
        self.bias = nn.Embedding(items + 1, 1)
        nn.init.zeros_(self.bias.weight)

    def forward(self, history: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Return scores [batch, candidates].

        Args:
            history: [batch, length] item numbers, padded with the padding row.
            candidates: [batch or 1, candidates] item numbers.
        """
        past = self.table(history)  # [B, T, d]
        wanted = self.table(candidates)  # [B or 1, C, d]
        weight = self._attention(past, wanted)  # [B, C, T]
        weight = weight.masked_fill(history.eq(self.padding)[:, None], 0.0)
        # DIN keeps the intensity of interest: the weights are not normalised to one.
        interest = weight @ past / history.shape[1] ** 0.5
        wanted = wanted.expand_as(interest)
        decision = self.decision(torch.cat([interest, wanted, interest * wanted], dim=-1)).squeeze(
            -1
        )
        return decision + (interest * wanted).sum(-1) + self.bias(candidates).squeeze(-1)

    def _attention(self, past: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return the activation unit's weights [B, C, T].

        Its first layer over (past, wanted, past * wanted) is a sum of three products, so the
        concatenation [B, C, T, 3d] is never made.
        """
        keys = (wanted[:, :, None] * self.unit_product).flatten(1, 2)  # [B or 1, C * U, d]
        product = (keys @ past.transpose(1, 2)).unflatten(
            1, (wanted.shape[1], UNIT)
        )  # [B, C, U, T]
        hidden = (
            product
            + self.unit_past(past).transpose(1, 2)[:, None]
            + self.unit_wanted(wanted)[..., None]
        )
        return self.unit_out(hidden.transpose(2, 3)).squeeze(-1)


def behaviour_embedding(
    histories: list[list[int]],
    items: int,
    settings: BehaviourSettings,
    seed: int,
    device: str = "cpu",
) -> np.ndarray:
    """Train the network and return the behaviour embedding, float32 [items, dim], rows of length 1.

    Args:
        histories: the training part of each user, as item numbers, oldest first.
        items: number of items in the catalogue.
        seed: seed of the start, the order and the negatives.

    Raises:
        UserError: no item ever follows another.
    """
    if not any(len(history) > 1 for history in histories):
        raise UserError(
            "in the training part no item follows another, so there is no behaviour to embed; "
            "use only the other source: index.sources=semantic"
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DeepInterestNetwork(items, settings.dim).to(device)
    if settings.warm_start:
        start = co_occurrence_embedding(histories, items, settings.dim, seed)
        with torch.no_grad():
            network.table.weight[:items] = torch.from_numpy(start).to(device)
    past, target = _examples(histories, items)
    if len(target):
        _train(network, past.to(device), target.to(device), settings, generator)
    return unit_rows(network.table.weight.detach()[:items].float().cpu().numpy(), "behaviour")


def _examples(
    histories: list[list[int]], padding: int, length: int = 10
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return every (history, next item) pair of the training part; the last `length` items count."""
    past, target = [], []
    for history in histories:
        for end in range(1, len(history)):
            window = history[max(0, end - length) : end]
            past.append([padding] * (length - len(window)) + window)
            target.append(history[end])
    return torch.tensor(past, dtype=torch.long).reshape(-1, length), torch.tensor(
        target, dtype=torch.long
    )


def _train(
    network: DeepInterestNetwork,
    past: torch.Tensor,
    target: torch.Tensor,
    settings: BehaviourSettings,
    generator: torch.Generator,
) -> None:
    """Sampled softmax: the target against negatives drawn by popularity, shared by the batch."""
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    frequency = torch.bincount(target.cpu(), minlength=network.table.num_embeddings).float() ** 0.75
    for _ in progress(range(settings.epochs), desc="behaviour encoder", unit="epoch"):
        for rows in torch.randperm(len(target), generator=generator).split(settings.batch):
            negatives = torch.multinomial(
                frequency, settings.negatives, replacement=True, generator=generator
            )
            wanted, negatives = target[rows, None], negatives.to(target.device)
            positive = network(past[rows], wanted)
            negative = network(past[rows], negatives[None])
            # A negative that is the target, or padding, must not be pushed away.
            negative = negative.masked_fill(negatives[None] == wanted, -torch.inf)
            loss = -torch.log_softmax(torch.cat([positive, negative], dim=1), dim=1)[:, 0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def co_occurrence_embedding(
    histories: list[list[int]], items: int, dim: int, seed: int
) -> np.ndarray:
    """Return a truncated SVD of shifted-positive PMI between items at most `WINDOW` apart.

    float32 [items, dim] (Levy & Goldberg, NeurIPS 2014); columns that the data cannot fill are zero.
    """
    from scipy.sparse import coo_matrix
    from sklearn.utils.extmath import randomized_svd

    directed = cooccurrence_counts(histories, items, WINDOW)
    counts = (directed + directed.T).tocoo()
    embedding = np.zeros((items, dim), dtype=np.float32)
    if counts.nnz == 0:
        return embedding
    margin = np.bincount(counts.row, counts.data, minlength=items)
    pmi = np.log(counts.data * margin.sum() / (margin[counts.row] * margin[counts.col]))
    positive = coo_matrix(
        (np.maximum(pmi, 0), (counts.row, counts.col)), shape=(items, items)
    ).tocsr()
    rank = min(dim, items - 1)
    left, singular, _ = randomized_svd(positive, rank, random_state=seed)
    embedding[:, :rank] = left * np.sqrt(singular)
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding / np.maximum(length, 1e-12)
