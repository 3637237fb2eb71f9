"""Beam search that walks the trie: every beam is an existing item, no item comes twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eager_llm.decoding.constraints import Constraint
from eager_llm.decoding.prefill import PrefixCache
from eager_llm.decoding.prompts import Prompts, SharedPrompts
from eager_llm.decoding.trie import Trie
from eager_llm.tuning.backbone import logits_of

# Where a level has so many times more tokens than a node has children, logits are computed a child.
FEW = 32


@dataclass
class _Beams:
    """The beams of all prompts; a score of -inf says that there is no such beam.

    Attributes:
        parent: which of the beams before each continues, [prompts, beams].
        node: in the trie, int32 [prompts, beams].
        score: [prompts, beams], falling.
    """

    parent: torch.Tensor
    node: torch.Tensor
    score: torch.Tensor


@torch.inference_mode()
def beam_search(
    model: Any,
    trie: Trie,
    prompts: list[list[int]],
    beams: int | Sequence[int],
    normalise: str = "vocabulary",
    constraint: Constraint | None = None,
    reader: type[Prompts] = SharedPrompts,
    memory: PrefixCache | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best items for each prompt, best first.

    An item's score is the sum of its tokens' log-probabilities. With at least as many beams as items
    the result is exact; with fewer it is plain beam search. As many items come out as there are
    beams, or items that the constraint allows, whichever is less: the nodes that a constraint leaves
    all have an allowed item below.

    Args:
        prompts: token ids, of any lengths.
        beams: how many prefixes are kept at each level: one number, or one a prompt.
        normalise: what a token's probability is taken over: "vocabulary", "level" (the tokens that
            stand at this level of the index) or "allowed" (those that continue the prefix to an
            existing item, whatever the constraint: a filter changes no score).
        constraint: which items may come, for each prompt.
        reader: `reader_of(model)` says which.
        memory: what is known of earlier prompts.

    Returns:
        Item rows int64 [prompts, n] and scores float [prompts, n], n the most beams or items; where
        there is no such item the score is -inf and the row meaningless.

    Raises:
        FloatingPointError: the model answers NaN.
    """
    read = reader(model, prompts, memory)
    device = read.hidden.device
    widths = torch.tensor([beams] * len(prompts) if isinstance(beams, int) else list(beams), device=device)
    most = int(max(beams, default=1)) if not isinstance(beams, int) else beams
    root = torch.zeros(len(prompts), 1, dtype=torch.int32, device=device)
    now = _Beams(root.long(), root, torch.zeros(len(prompts), 1, device=device))
    hidden = read.hidden
    for level in range(trie.depth):
        if level:
            hidden = read.extend(now.parent, _token(trie, level - 1, trie.label[now.node])[..., None])[:, :, 0]
        now = _advance(model, trie, level, hidden, now, widths, most, normalise, constraint)
    leaf = now.node - trie.level_start[trie.depth]
    if trie.tail.shape[1] and normalise != "allowed":  # a forced token is certain among the allowed ones
        now, leaf = _follow_tail(model, trie, read, now, leaf, normalise)
    if torch.isnan(now.score).any():  # NaN sorts first: one look at the end sees it wherever it arose
        raise FloatingPointError("the model answered NaN; its weights are broken")
    return trie.leaf_item[leaf].long(), now.score


def _advance(
    model: Any,
    trie: Trie,
    level: int,
    hidden: torch.Tensor,
    now: _Beams,
    widths: torch.Tensor,
    most: int,
    normalise: str,
    constraint: Constraint | None,
) -> _Beams:
    """Take the best children of all beams, for each prompt."""
    child, exists = trie.children(now.node, level)  # [P, W, C]
    label = trie.label.index_select(0, child.flatten()).view(child.shape).long()
    total = _log_p(model, trie, level, hidden, label, exists, normalise) + now.score[..., None]
    if constraint is not None:
        exists = constraint.narrow(level, now.node, child, exists)
    total = total.masked_fill_(~exists, -torch.inf).flatten(1)
    score, best = total.topk(min(most, total.shape[1]), dim=1)
    if most > 1:
        rank = torch.arange(score.shape[1], device=score.device)
        score = score.masked_fill(rank >= widths[:, None], -torch.inf)
    return _Beams(best // child.shape[-1], child.flatten(1).gather(1, best), score)


def _log_p(
    model: Any,
    trie: Trie,
    level: int,
    hidden: torch.Tensor,
    label: torch.Tensor,
    exists: torch.Tensor,
    normalise: str,
) -> torch.Tensor:
    """Return the log-probability of each child, [P, W, C]; only the logits it takes are computed."""
    if normalise == "allowed":
        if trie.widest[level] * FEW <= len(trie.tokens[level]):
            logits = logits_of(model, hidden, _token(trie, level, label))
        else:
            logits = logits_of(model, hidden, trie.rows[level]).gather(-1, label)
        return logits - logits.masked_fill(~exists, -torch.inf).logsumexp(-1, keepdim=True)
    logits, norm = _level_logits(model, trie, level, hidden, normalise)
    return logits.gather(-1, label) - norm


def _level_logits(
    model: Any, trie: Trie, level: int, hidden: torch.Tensor, normalise: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of a level's tokens and the logarithm of what they are divided by."""
    if normalise == "vocabulary":
        every = logits_of(model, hidden)
        rounded = hidden.dtype != torch.float32
        logits = logits_of(model, hidden, trie.rows[level]) if rounded else every[..., trie.rows[level]]
        return logits, every.logsumexp(-1, keepdim=True)
    logits = logits_of(model, hidden, trie.rows[level])
    return logits, logits.logsumexp(-1, keepdim=True)


def _follow_tail(
    model: Any, trie: Trie, read: Prompts, now: _Beams, leaf: torch.Tensor, normalise: str
) -> tuple[_Beams, torch.Tensor]:
    """Score the tokens that follow a leaf. They are known, so all are read in one pass."""
    tail = trie.tail[leaf].long()  # [P, W, T]
    tokens = [_token(trie, trie.depth - 1, trie.label[now.node])]
    tokens += [_token(trie, trie.depth + step, tail[..., step]) for step in range(tail.shape[2] - 1)]
    hidden = read.extend(now.parent, torch.stack(tokens, dim=2))
    score = now.score
    for step in range(tail.shape[2]):
        logits, norm = _level_logits(model, trie, trie.depth + step, hidden[:, :, step], normalise)
        score = score + (logits.gather(-1, tail[..., step, None]) - norm)[..., 0]
    score, order = score.sort(dim=1, descending=True)
    return _Beams(now.parent.gather(1, order), now.node.gather(1, order), score), leaf.gather(1, order)


def _token(trie: Trie, level: int, label: torch.Tensor) -> torch.Tensor:
    """Return the token ids of a level's labels."""
    return trie.tokens[level][label.long()]
