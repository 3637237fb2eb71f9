"""What the model is measured against: counts, tuned on validation, and SASRec. Each ranks item rows for histories."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from eager_llm.core.compute import fast_cpu_kernels
from eager_llm.core.progress import progress
from eager_llm.evaluation.baselines import Popularity, popularity_fallback
from eager_llm.item_prior.build import build_item_prior
from eager_llm.item_prior.ease import ease_weights
from eager_llm.item_prior.table import ItemPriorTable
from eager_llm.settings import ItemPriorSettings

# Scores of all items for some histories: item rows -> float [histories, items].
Scores = Callable[[list[list[int]]], np.ndarray]
Judge = Callable[[Scores], float]
UNORDERED = 1e9  # a span beside which all gaps are alike


def popularity(train: list[list[int]], items: int, seed: int, judge: Judge) -> Scores:
    """Count how often each item was chosen."""
    fallback = popularity_fallback(Popularity(train, items, seed).order)
    return lambda histories: np.tile(fallback, (len(histories), 1))


def counted(train: list[list[int]], items: int, seed: int, **settings: Any) -> Scores:
    """Count what followed what; popularity decides where no count does."""
    plain = ItemPriorSettings(semantic_weight=0.0, top_items=items, **settings)
    table = build_item_prior(train, items, None, plain)
    fallback = popularity_fallback(Popularity(train, items, seed).order)
    return lambda histories: table.scores(histories).toarray() + fallback


def next_item_counts(train: list[list[int]], items: int, seed: int, judge: Judge) -> Scores:
    """Count what came right after the history's last item."""
    return counted(train, items, seed, window=1, backward=0.0, damping=0.0, decay=0.0)


def co_occurrence(train: list[list[int]], items: int, seed: int, judge: Judge) -> Scores:
    """Co-occurrence; window, fading with the gap, direction, damping and decay are tuned on validation."""
    names = ("window", "gap_power", "backward", "damping", "decay")
    grid = product((5, 10, 20), (0.5, 1.0), (0.0, 0.3, 1.0), (0.0, 0.3, 0.5), (0.5, 0.75))
    tries = [
        counted(train, items, seed, **dict(zip(names, values, strict=True))) for values in grid
    ]
    return max(progress(tries, desc="co-occurrence", unit="setting"), key=judge)


def ease(train: list[list[int]], items: int, seed: int, judge: Judge) -> Scores:
    """EASE (Steck, WWW 2019): a history is a set, its items' weights are added up; the ridge is tuned on validation."""
    fallback, sets = (
        popularity_fallback(Popularity(train, items, seed).order),
        [list(set(h)) for h in train],
    )

    def scores_of(ridge: float) -> Scores:
        weights = ease_weights(sets, items, ridge, span=UNORDERED)
        return lambda histories: (
            np.stack([weights[list(set(history))].sum(0) for history in histories]) + fallback
        )

    tries = [
        scores_of(ridge)
        for ridge in progress((10.0, 30.0, 100.0, 300.0), desc="EASE", unit="setting")
    ]
    return max(tries, key=judge)


def prior_alone(prior: ItemPriorTable, train: list[list[int]], seed: int) -> Scores:
    """The item prior that is weighed beside our model, without it."""
    fallback = popularity_fallback(Popularity(train, prior.table.shape[1], seed).order)
    return lambda histories: prior.scores(histories).toarray() + fallback


class SASRec(nn.Module):
    """Self-attentive sequential recommendation (Kang & McAuley, ICDM 2018), scored against all items."""

    def __init__(
        self, items: int, width: int, layers: int, heads: int, length: int, dropout: float
    ) -> None:
        super().__init__()
        self.padding, self.length = items, length
        self.item = nn.Embedding(items + 1, width, padding_idx=items)
        self.place = nn.Embedding(length, width)
        nn.init.normal_(self.item.weight, std=width**-0.5)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the state after each item, [batch, length, width]; padding stands on the right."""
        length = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=ids.device)
        states = self.item(ids) * self.item.embedding_dim**0.5 + self.place.weight[:length]
        return self.layers(self.dropout(states), mask=mask, is_causal=True)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the scores of all items."""
        return states @ self.item.weight[: self.padding].T


def sasrec(
    train: list[list[int]],
    items: int,
    seed: int,
    judge: Judge,
    epochs: int = 200,
    patience: int = 3,
    length: int = 20,
    dropouts: tuple[float, ...] = (0.2, 0.5),
) -> Scores:
    """Train with cross-entropy over all items; dropout and epoch are chosen on validation."""
    found: list[tuple[float, Scores]] = []
    for dropout in dropouts:
        torch.manual_seed(seed)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = SASRec(items, 64, 2, 2, length, dropout).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
        waited, reached, kept = 0, -1.0, model.state_dict()
        for epoch in progress(range(epochs), desc=f"SASRec, dropout {dropout}", unit="epoch"):
            _sasrec_epoch(model, train, optimizer, np.random.default_rng((seed, epoch)), device)
            if epoch % 5 == 4:
                figure = judge(_sasrec_scores(model, device))
                waited = 0 if figure > reached else waited + 1
                if figure > reached:
                    reached, kept = figure, {k: v.clone() for k, v in model.state_dict().items()}
                if waited == patience:
                    break
        model.load_state_dict(kept)
        found.append((reached, _sasrec_scores(model, device)))
    return max(found, key=lambda pair: pair[0])[1]


def _sasrec_epoch(
    model: SASRec, train: list[list[int]], optimizer: Any, rng: np.random.Generator, device: str
) -> None:
    model.train()
    windows = [
        h[max(0, end - model.length - 1) : end]
        for h in train
        for end in range(len(h), 1, -model.length)
    ]
    order = rng.permutation(len(windows))
    for start in range(0, len(order), 128):
        batch = [windows[n] for n in order[start : start + 128]]
        ids = torch.full((len(batch), max(map(len, batch))), model.padding)
        for row, window in enumerate(batch):
            ids[row, : len(window)] = torch.tensor(window)
        ids = ids.to(device)
        wanted = ids[:, 1:] != model.padding
        optimizer.zero_grad()
        with fast_cpu_kernels(device, *ids.shape):
            cross_entropy_backward(model, model(ids[:, :-1])[wanted], ids[:, 1:][wanted])
        optimizer.step()


def cross_entropy_backward(
    model: SASRec, states: torch.Tensor, targets: torch.Tensor, chunk: int = 128
) -> None:
    """Leave the gradients of the mean cross-entropy over all items, by hand and a few positions at a time.

    Their probabilities then stay in a processor's cache: three times as fast as autograd there.

    Args:
        states: [positions, width], of the model's forward pass.
        targets: int64 [positions], item rows.
    """
    items = model.item.weight[: model.padding].detach()
    of_states, of_items = torch.empty_like(states), torch.zeros_like(model.item.weight)
    with torch.no_grad():
        for start in range(0, len(states), chunk):
            part, wanted = states[start : start + chunk], targets[start : start + chunk]
            slope = (part @ items.T).softmax(dim=1)
            slope[torch.arange(len(part), device=part.device), wanted] -= 1
            of_states[start : start + chunk] = slope @ items
            of_items[: model.padding].addmm_(slope.T, part)
    torch.autograd.backward(
        [states, model.item.weight], [of_states / len(states), of_items / len(states)]
    )


def _sasrec_scores(model: SASRec, device: str) -> Scores:
    @torch.inference_mode()
    def scores(histories: list[list[int]]) -> np.ndarray:
        model.eval()
        found = np.zeros((len(histories), model.padding), dtype=np.float32)
        read = [history[-model.length :] for history in histories]
        rows = [row for row, history in enumerate(read) if history]
        if rows:
            ids = torch.full((len(rows), max(len(read[row]) for row in rows)), model.padding)
            for place, row in enumerate(rows):
                ids[place, : len(read[row])] = torch.tensor(read[row])
            states = model(ids.to(device))
            last = torch.tensor([len(read[row]) - 1 for row in rows], device=device)
            found[rows] = (
                model.logits(states[torch.arange(len(rows), device=device), last]).cpu().numpy()
            )
        return found

    return scores
