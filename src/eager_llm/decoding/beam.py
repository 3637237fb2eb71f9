"""Beam search that walks the trie: every beam is an existing item, no item comes twice."""

from typing import Any

import torch

from eager_llm.decoding.trie import Trie
from eager_llm.tuning.backbone import hidden_states, logits_of


@torch.inference_mode()
def beam_search(
    model: Any, trie: Trie, prompts: list[list[int]], beams: int, padding: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best items for each prompt, best first.

    An item's score is the log-probability of its path, each token normalised over the whole
    vocabulary, so scores of different prompts compare. With at least as many beams as items the
    result is exact.

    Args:
        prompts: token ids, of any lengths.
        beams: how many items are kept at each level and returned.

    Returns:
        Item rows int64 [prompts, n] and scores float [prompts, n], n = min(beams, items); the
        score is -inf (and the row meaningless) where fewer than n items survived the beams.

    Raises:
        FloatingPointError: the model answers NaN.
    """
    device = model.device
    ids, mask = _left_padded(prompts, padding, device)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    output = hidden_states(model, ids, attention_mask=mask, position_ids=position, use_cache=True)
    cache, last = output.past_key_values, output.last_hidden_state[:, -1:]
    count = len(prompts)
    nodes = torch.zeros(count, 1, dtype=torch.long, device=device)
    scores = torch.zeros(count, 1, device=device)
    next_position = position[:, -1:] + 1
    for level in range(trie.levels):
        logits = logits_of(model, last.reshape(count, -1, last.shape[-1]))
        if torch.isnan(logits).any():
            raise FloatingPointError("the model answered NaN; its weights are broken")
        parent, nodes, scores = _advance(trie, level, logits, nodes, scores, beams)
        if level + 1 == trie.levels:
            break
        width = nodes.shape[1]
        rows = (torch.arange(count, device=device)[:, None] * (logits.shape[1]) + parent).reshape(-1)
        cache.batch_select_indices(rows)
        mask = torch.cat([mask[rows], mask.new_ones(len(rows), 1)], dim=1)
        output = hidden_states(
            model,
            trie.token[nodes].reshape(-1, 1),
            attention_mask=mask,
            position_ids=next_position.repeat_interleave(width, 0) + level,
            past_key_values=cache,
            use_cache=True,
        )
        cache, last = output.past_key_values, output.last_hidden_state
    return trie.items(nodes.clamp(min=trie.first_leaf)), scores


def _advance(
    trie: Trie, level: int, logits: torch.Tensor, nodes: torch.Tensor, scores: torch.Tensor, beams: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take the best children of all beams: their parent beam, node and score, each [prompts, n]."""
    children, exists = trie.children(nodes, level)  # [P, W, C]
    # log p = logit - logsumexp, taken only where a child stands.
    chosen = logits.gather(-1, trie.token[children]) - logits.logsumexp(-1, keepdim=True)
    total = (scores[..., None] + chosen).masked_fill(~exists, -torch.inf).flatten(1)
    scores, best = total.topk(min(beams, total.shape[1]), dim=1)
    return best // children.shape[-1], children.flatten(1).gather(1, best), scores


def _left_padded(prompts: list[list[int]], padding: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[padding] * (length - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask
