"""Beam search that walks the trie: every beam is an existing item, no item comes twice.

Shapes: P prompts, W beams, C children of a node (the most that a node of the level has),
T tail tokens (those that follow a leaf).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eager_llm.backbone.logits import logits_of
from eager_llm.decoding.constraints import Constraint
from eager_llm.decoding.item_prior import ItemPrior
from eager_llm.decoding.prefix_cache import PrefixCache
from eager_llm.decoding.prompt_attention import PromptAttention, SharedPrompts
from eager_llm.decoding.trie import Trie

# Where a level has so many times more tokens than a node has children, each beam gets the logits of
# its own children alone.
OWN_LOGITS_FACTOR = 32


@dataclass
class Beams:
    """The beams of all prompts; a score of -inf says that there is no such beam.

    Attributes:
        parent: which beam of the level before each one continues, int64 [P, W].
        node: in the trie, int32 [P, W].
        score: float [P, W], falling.
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
    prompt_attention: type[PromptAttention] = SharedPrompts,
    prefix_cache: PrefixCache | None = None,
    item_prior: ItemPrior | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best items for each prompt, best first.

    An item's score is the sum of its tokens' log-probabilities and of its share of the item prior.
    With at least as many beams as items the result is exact; with fewer it is plain beam search.
    As many items come out as there are beams, or items that the constraint allows, whichever is
    less: the nodes that a constraint leaves all have an allowed item below.

    Args:
        prompts: token ids, of any lengths.
        beams: how many prefixes stay at each level: one number, or one a prompt.
        normalise: what a token's probability is taken over: "vocabulary", "level" (the tokens that
            stand at this level of the index) or "allowed" (those that continue the prefix to an
            existing item, whatever the constraint: a filter changes no score).
        constraint: which items may come, for each prompt.
        prompt_attention: how beams attend to prompts; `select_prompt_attention` finds it.
        prefix_cache: keys and values of earlier prompts, of these very weights.
        item_prior: weighed beside the model's probabilities.

    Returns:
        Item rows int64 [P, n] and scores float [P, n], n the most beams or items. Where there is no
        such item the score is -inf and the row meaningless.

    Raises:
        FloatingPointError: the model answers NaN.
    """
    if isinstance(beams, int):
        beams = [beams] * len(prompts)
    widths = list(beams)
    search = BeamSearch(model, trie, widths, normalise, constraint, item_prior)
    states = prompt_attention(model, prompts, prefix_cache)
    current = search.start()
    hidden = states.hidden
    for level in range(trie.depth):
        if level:
            hidden = search.read_tokens(level - 1, states, current)
        current = search.advance(level, hidden, current)
    leaf = current.node - trie.level_start[trie.depth]
    # Among the allowed tokens a forced one is certain.
    if trie.tail.shape[1] and normalise != "allowed":
        current, leaf = search.follow_tail(states, current, leaf)
    # NaN sorts first: one look at the end sees it wherever it arose.
    if torch.isnan(current.score).any():
        raise FloatingPointError("the model answered NaN; its weights are broken")
    return trie.leaf_item[leaf].long(), current.score


class BeamSearch:
    """The steps of one beam search; `beam_search` says what the other arguments mean.

    Args:
        widths: beams of each prompt.
    """

    def __init__(
        self,
        model: Any,
        trie: Trie,
        widths: list[int],
        normalise: str,
        constraint: Constraint | None = None,
        item_prior: ItemPrior | None = None,
    ) -> None:
        self.model = model
        self.trie = trie
        self.normalise = normalise
        self.constraint = constraint
        self.item_prior = item_prior
        self.prompts = len(widths)
        self.width = max(widths)
        # Which ranks a prompt with fewer beams than others does without, bool [P, W].
        self._beyond_width: torch.Tensor | None = None
        if min(widths) < self.width:
            ranks = torch.arange(self.width, device=trie.label.device)
            limits = torch.tensor(widths, device=ranks.device)
            self._beyond_width = ranks >= limits[:, None]

    def start(self) -> Beams:
        """Return the beams before the first level: the root of the trie for every prompt."""
        device = self.trie.label.device
        root = torch.zeros(self.prompts, 1, dtype=torch.int32, device=device)
        score = torch.zeros(root.shape, device=device)
        return Beams(root.long(), root, score)

    def tokens(
        self,
        level: int,
        label: torch.Tensor,
    ) -> torch.Tensor:
        """Return the token ids of labels of a level, int64 in the shape of the labels."""
        return self.trie.tokens[level][label.long()]

    def read_tokens(
        self,
        level: int,
        states: PromptAttention,
        beams: Beams,
    ) -> torch.Tensor:
        """Let the model read the token of each beam's node, of a level; return [P, W, width]."""
        label = self.trie.label[beams.node]
        tokens = self.tokens(level, label)
        hidden = states.extend(beams.parent, tokens[..., None])
        return hidden[:, :, 0]

    def advance(
        self,
        level: int,
        hidden: torch.Tensor,
        beams: Beams,
    ) -> Beams:
        """Return, for each prompt, the best children of all its beams.

        Args:
            hidden: the hidden state of each beam's last token, [P, W, width].
        """
        trie = self.trie
        child, exists = trie.children(beams.node, level)  # [P, W, C]
        label = trie.label.index_select(0, child.flatten())
        label = label.view(child.shape).long()
        total = self.log_p(level, hidden, label, exists)
        total = total + beams.score[..., None]
        if self.item_prior is not None:
            total += self.item_prior.gain(level, beams.node, child)
        if self.constraint is not None:
            exists = self.constraint.narrow(level, beams.node, child, exists)
        total = total.masked_fill_(~exists, -torch.inf).flatten(1)
        width = min(self.width, total.shape[1])
        score, best = total.topk(width, dim=1)
        if self._beyond_width is not None:
            is_beyond = self._beyond_width[:, :width]
            score = score.masked_fill(is_beyond, -torch.inf)
        parent = best // child.shape[-1]
        node = child.flatten(1).gather(1, best)
        return Beams(parent, node, score)

    def log_p(
        self,
        level: int,
        hidden: torch.Tensor,
        label: torch.Tensor,
        exists: torch.Tensor,
    ) -> torch.Tensor:
        """Return the log-probability of each child, float [P, W, C].

        Args:
            hidden: [P, W, width].
            label: of each child, int64 [P, W, C].
            exists: whether there is such a child, bool [P, W, C].
        """
        if self.normalise != "allowed":
            logits, log_norm = self.level_logits(level, hidden)
            return logits.gather(-1, label) - log_norm
        children = self.trie.widest[level]
        tokens = len(self.trie.tokens[level])
        if children * OWN_LOGITS_FACTOR <= tokens:
            logits = logits_of(self.model, hidden, self.tokens(level, label))
        else:
            logits = logits_of(self.model, hidden, self.trie.rows[level])
            logits = logits.gather(-1, label)
        existing = logits.masked_fill(~exists, -torch.inf)
        return logits - existing.logsumexp(-1, keepdim=True)

    def level_logits(
        self,
        level: int,
        hidden: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of a level's tokens, and the logarithm of what they are divided by.

        Args:
            hidden: [..., width].

        Returns:
            Logits [..., labels of the level], and the log-norm [..., 1].
        """
        rows = self.trie.rows[level]
        if self.normalise == "level":
            logits = logits_of(self.model, hidden, rows)
            return logits, logits.logsumexp(-1, keepdim=True)
        vocabulary = logits_of(self.model, hidden)
        log_norm = vocabulary.logsumexp(-1, keepdim=True)
        if hidden.dtype == torch.float32:
            return vocabulary[..., rows], log_norm
        # The whole vocabulary's logits are rounded; few rows are computed again without rounding.
        return logits_of(self.model, hidden, rows), log_norm

    def follow_tail(
        self,
        states: PromptAttention,
        beams: Beams,
        leaf: torch.Tensor,
    ) -> tuple[Beams, torch.Tensor]:
        """Score the tokens that follow a leaf, and bring the beams into order again.

        Args:
            leaf: of each beam, [P, W].

        Returns:
            The beams and their leaves, [P, W].
        """
        tail = self.tail_scores(states, beams, leaf)
        total = beams.score + tail.sum(-1)
        score, order = total.sort(dim=1, descending=True)
        parent = beams.parent.gather(1, order)
        node = beams.node.gather(1, order)
        return Beams(parent, node, score), leaf.gather(1, order)

    def tail_scores(
        self,
        states: PromptAttention,
        beams: Beams,
        leaf: torch.Tensor,
    ) -> torch.Tensor:
        """Return the log-probability of each token that follows a leaf, float [P, W, T].

        Nothing branches behind a leaf, so the model reads all tokens in one pass.

        Args:
            leaf: of each beam, [P, W].
        """
        depth = self.trie.depth
        tail = self.trie.tail[leaf].long()  # [P, W, T]
        length = tail.shape[2]
        # The model reads each token but the last, and scores the one that follows.
        label = self.trie.label[beams.node]
        tokens = [self.tokens(depth - 1, label)]
        for step in range(length - 1):
            label = tail[..., step]
            tokens.append(self.tokens(depth + step, label))
        hidden = states.extend(beams.parent, torch.stack(tokens, dim=2))
        scores = []
        for step in range(length):
            label = tail[..., step, None]
            logits, log_norm = self.level_logits(depth + step, hidden[:, :, step])
            log_p = logits.gather(-1, label) - log_norm
            scores.append(log_p[..., 0])
        return torch.stack(scores, dim=-1)
