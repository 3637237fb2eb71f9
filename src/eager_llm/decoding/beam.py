"""Beam search that walks the trie: every beam is an existing item, no item comes twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eager_llm.backbone.loading import logits_of
from eager_llm.decoding.constraints import Constraint
from eager_llm.decoding.item_prior import ItemPrior
from eager_llm.decoding.prefill import PrefixCache
from eager_llm.decoding.prompt_attention import Prompts, SharedPrompts
from eager_llm.decoding.trie import Trie

# Where a level has so many times more tokens than a node has children, logits are computed a child.
FEW = 32


@dataclass
class Beams:
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
    prior: ItemPrior | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best items for each prompt, best first.

    An item's score is the sum of its tokens' log-probabilities, and its share of the prior. With at least as many beams as items
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
        prior: evidence beside the model's probabilities.

    Returns:
        Item rows int64 [prompts, n] and scores float [prompts, n], n the most beams or items; where
        there is no such item the score is -inf and the row meaningless.

    Raises:
        FloatingPointError: the model answers NaN.
    """
    widths = [beams] * len(prompts) if isinstance(beams, int) else list(beams)
    search = Search(model, trie, widths, normalise, constraint, prior)
    read = reader(model, prompts, memory)
    now, hidden = search.start(), read.hidden
    for level in range(trie.depth):
        if level:
            hidden = read.extend(
                now.parent, search.tokens(level - 1, trie.label[now.node])[..., None]
            )[:, :, 0]
        now = search.advance(level, hidden, now)
    leaf = now.node - trie.level_start[trie.depth]
    if (
        trie.tail.shape[1] and normalise != "allowed"
    ):  # a forced token is certain among the allowed ones
        now, leaf = search.follow_tail(read, now, leaf)
    if torch.isnan(
        now.score
    ).any():  # NaN sorts first: one look at the end sees it wherever it arose
        raise FloatingPointError("the model answered NaN; its weights are broken")
    return trie.leaf_item[leaf].long(), now.score


class Search:
    """The steps of one beam search; `beam_search` says what its arguments mean.

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
        prior: ItemPrior | None = None,
    ) -> None:
        self.model, self.trie, self.normalise = model, trie, normalise
        self.constraint, self.prior = constraint, prior
        self.prompts, self.most = len(widths), max(widths)
        # Which ranks a prompt with fewer beams than others does without.
        self._beyond = None
        if min(widths) < self.most:
            ranks = torch.arange(self.most, device=trie.label.device)
            self._beyond = ranks >= torch.tensor(widths, device=ranks.device)[:, None]

    def start(self) -> Beams:
        """Return the beams before the first level: the root of the trie for every prompt."""
        root = torch.zeros(self.prompts, 1, dtype=torch.int32, device=self.trie.label.device)
        return Beams(root.long(), root, torch.zeros(root.shape, device=root.device))

    def tokens(self, level: int, label: torch.Tensor) -> torch.Tensor:
        """Return the token ids of a level's labels."""
        return self.trie.tokens[level][label.long()]

    def advance(self, level: int, hidden: torch.Tensor, now: Beams) -> Beams:
        """Take the best children of all beams [P, W], for each prompt; `hidden` is [P, W, width]."""
        child, exists = self.trie.children(now.node, level)  # [P, W, C]
        label = self.trie.label.index_select(0, child.flatten()).view(child.shape).long()
        total = self.log_p(level, hidden, label, exists) + now.score[..., None]
        if self.prior is not None:
            total += self.prior.gain(level, now.node, child)
        if self.constraint is not None:
            exists = self.constraint.narrow(level, now.node, child, exists)
        total = total.masked_fill_(~exists, -torch.inf).flatten(1)
        score, best = total.topk(min(self.most, total.shape[1]), dim=1)
        if self._beyond is not None:
            score = score.masked_fill(self._beyond[:, : score.shape[1]], -torch.inf)
        return Beams(best // child.shape[-1], child.flatten(1).gather(1, best), score)

    def log_p(
        self, level: int, hidden: torch.Tensor, label: torch.Tensor, exists: torch.Tensor
    ) -> torch.Tensor:
        """Return the log-probability of each child, [P, W, C]; only the logits it takes are computed."""
        if self.normalise != "allowed":
            logits, norm = self.level_logits(level, hidden)
            return logits.gather(-1, label) - norm
        if self.trie.widest[level] * FEW <= len(self.trie.tokens[level]):
            logits = logits_of(self.model, hidden, self.tokens(level, label))
        else:
            logits = logits_of(self.model, hidden, self.trie.rows[level]).gather(-1, label)
        return logits - logits.masked_fill(~exists, -torch.inf).logsumexp(-1, keepdim=True)

    def level_logits(self, level: int, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of a level's tokens and the logarithm of what they are divided by."""
        rows = self.trie.rows[level]
        if self.normalise == "level":
            logits = logits_of(self.model, hidden, rows)
            return logits, logits.logsumexp(-1, keepdim=True)
        every = logits_of(self.model, hidden)
        rounded = hidden.dtype != torch.float32
        logits = logits_of(self.model, hidden, rows) if rounded else every[..., rows]
        return logits, every.logsumexp(-1, keepdim=True)

    def follow_tail(
        self, read: Prompts, now: Beams, leaf: torch.Tensor
    ) -> tuple[Beams, torch.Tensor]:
        """Score the tokens that follow a leaf, and bring the beams into order again."""
        score, order = (now.score + self.tail_scores(read, now, leaf).sum(-1)).sort(
            dim=1, descending=True
        )
        return Beams(now.parent.gather(1, order), now.node.gather(1, order), score), leaf.gather(
            1, order
        )

    def tail_scores(self, read: Prompts, now: Beams, leaf: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of each token that follows a leaf [P, W], [P, W, tail].

        They are known, so all are read in one pass.
        """
        depth = self.trie.depth
        tail = self.trie.tail[leaf].long()  # [P, W, T]
        tokens = [self.tokens(depth - 1, self.trie.label[now.node])]
        tokens += [self.tokens(depth + step, tail[..., step]) for step in range(tail.shape[2] - 1)]
        hidden = read.extend(now.parent, torch.stack(tokens, dim=2))
        scores = []
        for step in range(tail.shape[2]):
            logits, norm = self.level_logits(depth + step, hidden[:, :, step])
            scores.append((logits.gather(-1, tail[..., step, None]) - norm)[..., 0])
        return torch.stack(scores, dim=-1)
