"""Is the fast way exact? Against brute force, and against what `generate` answers."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from decoding_rivals import Decoded

from eager_llm.decoding.beam import beam_search
from eager_llm.decoding.mask_cache import MaskCache
from eager_llm.decoding.trie import Trie
from eager_llm.settings import NORMALISATIONS

ITEMS, LEVELS, LABELS = 300, 4, 256
FIRST = 2000


def same_answers(ours: Decoded, theirs: Decoded, tolerance: float = 1e-4) -> bool:
    """Whether two methods found the same items with the same scores, but for near ties."""
    if not np.allclose(ours.scores, theirs.scores, atol=tolerance, rtol=0):
        return False
    for row in range(len(ours.items)):
        score_of = dict(zip(theirs.items[row].tolist(), theirs.scores[row].tolist(), strict=True))
        last = theirs.scores[row].min()
        for item, score in zip(ours.items[row].tolist(), ours.scores[row].tolist(), strict=True):
            # An item may be missing only where it ties with the last one.
            if abs(score_of.get(item, last) - score) > 2 * tolerance:
                return False
    return True


@torch.inference_mode()
def brute_force(
    model: Any, item_tokens: np.ndarray, prompt: list[int], normalise: str
) -> torch.Tensor:
    """Score every item: whole sequences through the model's own forward pass."""
    ids = torch.tensor([prompt + path for path in item_tokens.tolist()], device=model.device)
    logits = model(ids).logits[:, len(prompt) - 1 : -1].float()
    if normalise != "vocabulary":
        over = torch.zeros_like(logits, dtype=torch.bool)
        paths = item_tokens.tolist()
        for level in range(item_tokens.shape[1]):
            for row, path in enumerate(paths):
                rivals = (
                    paths
                    if normalise == "level"
                    else [p for p in paths if p[:level] == path[:level]]
                )
                over[row, level, [p[level] for p in rivals]] = True
        logits = logits.masked_fill(~over, -torch.inf)
    tokens = torch.from_numpy(item_tokens).to(model.device)[..., None]
    return logits.log_softmax(-1).gather(-1, tokens).sum((1, 2))


def exactness(make_backbone: Callable[..., Any], plan: argparse.Namespace) -> bool:
    """Compare with brute force: items, order and scores (1e-5), every definition, with and without filters."""
    rng = np.random.default_rng((plan.seed, 2))
    codes = np.unique(rng.integers(0, 8, size=(ITEMS, LEVELS)), axis=0)
    item_tokens = rng.permutation(codes) + FIRST + LABELS * np.arange(LEVELS)
    trie = Trie.build(item_tokens).to(plan.device)
    passes = rng.random(len(item_tokens)) < 0.5
    masks = MaskCache(trie, lambda _: passes, batch=4)
    prompts = [rng.integers(3, FIRST, n).tolist() for n in (5, 40, 90)]
    history = rng.integers(len(item_tokens), size=20).tolist()
    held = True
    for name in plan.backbones:
        model = make_backbone(name, LEVELS, plan.seed, plan.device)
        for normalise in NORMALISATIONS:
            exact = [
                brute_force(model, item_tokens, prompt, normalise).cpu().numpy()
                for prompt in prompts
            ]
            for filters, excluded in (
                ([None] * 3, [[]] * 3),
                (["half", None, "half"], [[], history, history]),
            ):
                limits = masks.constraint(filters, excluded)
                found, scores = beam_search(
                    model, trie, prompts, len(item_tokens), normalise, limits
                )
                for row, truth in enumerate(exact):
                    may = passes.copy() if filters[row] else np.ones(len(item_tokens), dtype=bool)
                    may[excluded[row]] = False
                    live = scores[row] > -torch.inf
                    ours = Decoded(
                        found[row][live][None].cpu().numpy(), scores[row][live][None].cpu().numpy()
                    )
                    order = np.flatnonzero(may)[np.argsort(-truth[may])]
                    if ours.items.shape[1] != len(order):
                        held = False
                        continue
                    tolerance = 1e-5 if plan.device == "cpu" else 1e-3
                    held &= same_answers(ours, Decoded(order[None], truth[order][None]), tolerance)
    return bool(held)
