"""Behaviour embedding: a Deep Interest Network trained on next-item prediction.

The network is DIN (Zhou et al., KDD 2018): a candidate item attends to the user's history through
a small activation unit, and the attended history decides with the candidate. After training, the
item table is the behaviour embedding (EAGER-LLM, section 3.2). Only the training split is used.

Shapes: B histories of a batch, T items of a history, C candidates, D width of the embedding,
U hidden width of the activation unit.
"""

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from torch import nn

from eager_llm.core.errors import UserError
from eager_llm.core.progress import progress
from eager_llm.encoders.normalise import unit_rows
from eager_llm.item_prior.cooccurrence import cooccurrence_counts
from eager_llm.settings import BehaviourSettings

# How far apart two items still count as co-occurring, for the warm start.
WINDOW = 3
# Hidden widths of the activation unit and of the decision.
UNIT = 16
DECISION = 64
# Items of a history that the network sees.
HISTORY_LENGTH = 10
# Power of an item's frequency by which negatives are sampled.
NEGATIVE_POWER = 0.75


class DeepInterestNetwork(nn.Module):
    """Score candidate items for histories.

    Args:
        items: number of items; row `items` of the table is padding.
        dim: width of the item embedding, D.
    """

    def __init__(
        self,
        items: int,
        dim: int,
    ) -> None:
        super().__init__()
        self.padding = items
        self.table = nn.Embedding(items + 1, dim, padding_idx=items)
        nn.init.normal_(self.table.weight, std=dim**-0.5)
        self.unit_past = nn.Linear(dim, UNIT)
        self.unit_candidate = nn.Linear(dim, UNIT, bias=False)
        self.unit_product = nn.Parameter(torch.randn(UNIT, dim) * dim**-0.5)
        self.unit_out = nn.Sequential(nn.PReLU(), nn.Linear(UNIT, 1))
        self.decision = nn.Sequential(
            nn.Linear(3 * dim, DECISION),
            nn.PReLU(),
            nn.Linear(DECISION, 1),
        )
        self.bias = nn.Embedding(items + 1, 1)
        nn.init.zeros_(self.bias.weight)

    def forward(
        self,
        history: torch.Tensor,
        candidates: torch.Tensor,
    ) -> torch.Tensor:
        """Return a score for each candidate, float [B, C].

        Args:
            history: item numbers, padded with the padding row, int64 [B, T].
            candidates: item numbers, int64 [B or 1, C].
        """
        past = self.table(history)  # [B, T, D]
        candidate = self.table(candidates)  # [B or 1, C, D]
        weight = self._attention(past, candidate)  # [B, C, T]
        is_padding = history.eq(self.padding)[:, None]
        weight = weight.masked_fill(is_padding, 0.0)
        # DIN keeps the intensity of interest: the weights are not normalised to one.
        interest = weight @ past / history.shape[1] ** 0.5  # [B, C, D]
        candidate = candidate.expand_as(interest)
        features = torch.cat([interest, candidate, interest * candidate], dim=-1)
        decision = self.decision(features).squeeze(-1)
        similarity = (interest * candidate).sum(-1)
        return decision + similarity + self.bias(candidates).squeeze(-1)

    def _attention(
        self,
        past: torch.Tensor,
        candidate: torch.Tensor,
    ) -> torch.Tensor:
        """Return the activation unit's weights [B, C, T].

        Its first layer over (past, candidate, past * candidate) is a sum of three products, so the
        concatenation [B, C, T, 3D] is never made.

        Args:
            past: [B, T, D].
            candidate: [B or 1, C, D].
        """
        keys = (candidate[:, :, None] * self.unit_product).flatten(1, 2)  # [B or 1, C * U, D]
        product = keys @ past.transpose(1, 2)
        product = product.unflatten(1, (candidate.shape[1], UNIT))  # [B, C, U, T]
        of_past = self.unit_past(past).transpose(1, 2)[:, None]  # [B, 1, U, T]
        of_candidate = self.unit_candidate(candidate)[..., None]  # [B or 1, C, U, 1]
        hidden = product + of_past + of_candidate
        return self.unit_out(hidden.transpose(2, 3)).squeeze(-1)


def behaviour_embedding(
    histories: list[list[int]],
    items: int,
    settings: BehaviourSettings,
    seed: int,
    device: str = "cpu",
) -> np.ndarray:
    """Train the network and return the behaviour embedding, float32 [items, D], rows of length 1.

    Args:
        histories: the training split of each user, as item numbers, oldest first.
        items: number of items in the catalogue.
        seed: of the start, the order and the negatives.
        device: that the network is trained on.

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
    table = network.table.weight.detach()[:items]
    return unit_rows(table.float().cpu().numpy(), "behaviour")


def _examples(histories: list[list[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return every (history, next item) pair of the training split.

    Returns:
        The last items before each target, int64 [examples, T], and the targets, int64 [examples].
    """
    past = []
    target = []
    for history in histories:
        for end in range(1, len(history)):
            window = history[max(0, end - HISTORY_LENGTH) : end]
            past.append([padding] * (HISTORY_LENGTH - len(window)) + window)
            target.append(history[end])
    past_tensor = torch.tensor(past, dtype=torch.long).reshape(-1, HISTORY_LENGTH)
    target_tensor = torch.tensor(target, dtype=torch.long)
    return past_tensor, target_tensor


def _train(
    network: DeepInterestNetwork,
    past: torch.Tensor,
    target: torch.Tensor,
    settings: BehaviourSettings,
    generator: torch.Generator,
) -> None:
    """Train by sampled softmax: the target against negatives that the batch shares.

    Args:
        past: int64 [examples, T].
        target: int64 [examples].
        generator: of the order and of the negatives, which are sampled by popularity.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    counts = torch.bincount(target.cpu(), minlength=network.table.num_embeddings)
    frequency = counts.float() ** NEGATIVE_POWER
    for _ in progress(range(settings.epochs), desc="behaviour encoder", unit="epoch"):
        order = torch.randperm(len(target), generator=generator)
        for rows in order.split(settings.batch):
            negatives = torch.multinomial(
                frequency,
                settings.negatives,
                replacement=True,
                generator=generator,
            )
            loss = _sampled_softmax_loss(
                network, past[rows], target[rows], negatives.to(target.device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _sampled_softmax_loss(
    network: DeepInterestNetwork,
    past: torch.Tensor,
    target: torch.Tensor,
    negatives: torch.Tensor,
) -> torch.Tensor:
    """Return the mean negative log-likelihood of the targets among the negatives.

    Args:
        past: int64 [B, T].
        target: int64 [B].
        negatives: int64 [C].
    """
    targets = target[:, None]
    positive_scores = network(past, targets)
    negative_scores = network(past, negatives[None])
    # A negative that is the target must not be pushed away.
    negative_scores = negative_scores.masked_fill(negatives[None] == targets, -torch.inf)
    scores = torch.cat([positive_scores, negative_scores], dim=1)
    return -torch.log_softmax(scores, dim=1)[:, 0].mean()


def co_occurrence_embedding(
    histories: list[list[int]],
    items: int,
    dim: int,
    seed: int,
) -> np.ndarray:
    """Return a truncated SVD of shifted-positive PMI between items at most `WINDOW` apart.

    The method is Levy & Goldberg's (NeurIPS 2014). Columns that the data cannot fill are zero.

    Args:
        histories: item numbers, oldest first.
        items: number of items.
        dim: width of the embedding, D.
        seed: of the SVD.

    Returns:
        float32 [items, D], rows of length 1 but for items that occur with no other.
    """
    from sklearn.utils.extmath import randomized_svd

    embedding = np.zeros((items, dim), dtype=np.float32)
    directed = cooccurrence_counts(histories, items, WINDOW)
    counts = (directed + directed.T).tocoo()
    if counts.nnz == 0:
        return embedding
    rank = min(dim, items - 1)
    left, singular, _ = randomized_svd(_positive_pmi(counts, items), rank, random_state=seed)
    embedding[:, :rank] = left * np.sqrt(singular)
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding / np.maximum(length, 1e-12)


def _positive_pmi(counts: coo_matrix, items: int) -> csr_matrix:
    """Return the pointwise mutual information of counts [items, items], where it is positive."""
    margin = np.bincount(counts.row, counts.data, minlength=items)
    expected = margin[counts.row] * margin[counts.col]
    pmi = np.log(counts.data * margin.sum() / expected)
    positions = (counts.row, counts.col)
    positive = coo_matrix((np.maximum(pmi, 0), positions), shape=(items, items))
    return positive.tocsr()
