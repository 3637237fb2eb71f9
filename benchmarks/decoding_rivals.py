"""The other ways to decode items, each as good as it can be made, and ours, behind one interface."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from eager_llm.backbone.logits import logits_of
from eager_llm.decoding.beam import beam_search
from eager_llm.decoding.inference_weights import optimize_for_inference
from eager_llm.decoding.prompt_attention import SharedPrompts
from eager_llm.decoding.trie import Trie

BEAMS = 20


@dataclass
class Decoded:
    """What a method answers: item rows [prompts, beams] (-1: no such item) and scores."""

    items: np.ndarray
    scores: np.ndarray


@dataclass
class Method:
    """A way to decode.

    Attributes:
        name: in the table.
        prepare: builds what it needs for a catalogue and returns the decoder of batches of prompts.
    """

    name: str
    prepare: Callable[[Any, np.ndarray, Trie], Callable[[list[list[int]]], Decoded]]


class Walker:
    """Finds the node of token prefixes in a trie, one vectorised search a level."""

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        counts = (trie.first_child[1:] - trie.first_child[:-1]).long()
        parents = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        self.labels = max(len(tokens) for tokens in trie.tokens)
        # Edges by parent and label; nodes are numbered in this order.
        self.edges = parents * self.labels + trie.label[1:]

    def walk(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the node that each prefix [n, steps] leads to, -1 where there is none."""
        node = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        for level in range(min(tokens.shape[1], self.trie.depth)):
            label, known = self._label(tokens[:, level], level)
            edge = node.clamp(min=0) * self.labels + label
            place = torch.searchsorted(self.edges, edge).clamp(max=len(self.edges) - 1)
            node = torch.where(known & (node >= 0) & (self.edges[place] == edge), place + 1, -1)
        return node

    def items(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the item of each whole path [n, levels], -1 where there is none."""
        leaf = self.walk(tokens) - self.trie.level_start[self.trie.depth]
        there = leaf >= 0
        for step in range(self.trie.tail.shape[1]):
            level = self.trie.depth + step
            there &= (
                self.trie.tokens[level][self.trie.tail[leaf.clamp(min=0), step].long()]
                == tokens[:, level]
            )
        return torch.where(there, self.trie.leaf_item[leaf.clamp(min=0)].long(), -1)

    def _label(self, tokens: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        known = self.trie.tokens[level]
        label = torch.searchsorted(known, tokens.contiguous()).clamp(max=len(known) - 1)
        return label, known[label] == tokens


class MaskProcessor(LogitsProcessor):
    """The constraint as a `LogitsProcessor`: two vectorised look-ups for all beams of all prompts."""

    def __init__(self, walker: Walker, prompt_length: int) -> None:
        self.walker, self.start = walker, prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Leave the scores of the tokens that lead on; all others become -inf."""
        trie, level = self.walker.trie, input_ids.shape[1] - self.start
        node = self.walker.walk(input_ids[:, self.start :]).clamp(min=0)
        if level < trie.depth:
            child, exists = trie.children(node.int(), level)
            label = trie.label[torch.where(exists, child, child[:, :1])].long()
        else:
            label = trie.tail[
                (node - trie.level_start[trie.depth]).clamp(min=0), level - trie.depth, None
            ].long()
        allowed = trie.tokens[level][label]
        return torch.full_like(scores, -torch.inf).scatter_(1, allowed, scores.gather(1, allowed))


def left_padded(prompts: list[list[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask in the form that `generate` takes."""
    length = max(map(len, prompts))
    ids = [[0] * (length - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _generate(model: Any, walker: Walker, prompts: list[list[int]], **constraint: Any) -> Decoded:
    ids, mask = left_padded(prompts, model.device)
    output = model.generate(
        ids,
        attention_mask=mask,
        num_beams=BEAMS,
        num_return_sequences=BEAMS,
        max_new_tokens=walker.trie.levels,
        do_sample=False,
        length_penalty=0.0,  # scores stay sums
        return_dict_in_generate=True,
        output_scores=True,
        pad_token_id=0,
        eos_token_id=None,
        **constraint,
    )
    items = walker.items(output.sequences[:, ids.shape[1] :])
    return Decoded(
        items.view(-1, BEAMS).cpu().numpy(), output.sequences_scores.view(-1, BEAMS).cpu().numpy()
    )


def prepare_prefix_function(
    model: Any, item_tokens: np.ndarray, trie: Trie
) -> Callable[..., Decoded]:
    """`prefix_allowed_tokens_fn` over a trie of Python dictionaries, as reference code does."""
    root: dict[int, Any] = {}
    for path in item_tokens.tolist():
        node = root
        for token in path:
            node = node.setdefault(token, {})
    walker = Walker(trie)

    def decode(prompts: list[list[int]]) -> Decoded:
        start = max(map(len, prompts))

        def allowed(_: int, ids: torch.Tensor) -> list[int]:
            node = root
            for token in ids[start:].tolist():
                node = node.get(token, {})
            return list(node)

        return _generate(model, walker, prompts, prefix_allowed_tokens_fn=allowed)

    return decode


def prepare_mask_processor(
    model: Any, item_tokens: np.ndarray, trie: Trie
) -> Callable[..., Decoded]:
    """`generate` with the vectorised mask."""
    walker = Walker(trie)

    def decode(prompts: list[list[int]]) -> Decoded:
        processor = MaskProcessor(walker, max(map(len, prompts)))
        return _generate(model, walker, prompts, logits_processor=LogitsProcessorList([processor]))

    return decode


def prepare_unconstrained(
    model: Any, item_tokens: np.ndarray, trie: Trie
) -> Callable[..., Decoded]:
    """Our shared prompt without the trie: beam search over the whole vocabulary."""
    walker = Walker(trie)

    @torch.inference_mode()
    def decode(prompts: list[list[int]]) -> Decoded:
        read = SharedPrompts(model, prompts)
        hidden = read.hidden
        score = torch.zeros(len(prompts), 1, device=model.device)
        parent = torch.zeros(len(prompts), 1, dtype=torch.long, device=model.device)
        paths = torch.zeros(len(prompts), 1, 0, dtype=torch.long, device=model.device)
        for level in range(trie.levels):
            if level:
                hidden = read.extend(parent, paths[..., -1:])[:, :, 0]
            log_p = logits_of(model, hidden).log_softmax(-1)
            total = (score[..., None] + log_p).flatten(1)
            score, best = total.topk(min(BEAMS, total.shape[1]), dim=1)
            parent, token = best // log_p.shape[-1], best % log_p.shape[-1]
            before = paths.gather(1, parent[..., None].expand(-1, -1, level))
            paths = torch.cat([before, token[..., None]], dim=2)
        items = walker.items(paths.flatten(0, 1))
        return Decoded(items.view(-1, BEAMS).cpu().numpy(), score.cpu().numpy())

    return decode


def prepare_ours(normalise: str, precision: str = "float32") -> Callable[..., Any]:
    """Our decoder with a definition of the score; the model as a bundle loads it."""

    def prepare(model: Any, item_tokens: np.ndarray, trie: Trie) -> Callable[..., Decoded]:
        model = optimize_for_inference(copy.deepcopy(model), precision)

        def decode(prompts: list[list[int]]) -> Decoded:
            items, scores = beam_search(model, trie, prompts, BEAMS, normalise)
            return Decoded(items.cpu().numpy(), scores.cpu().numpy())

        return decode

    return prepare


REFERENCE, MASKED, FREE = (
    "generate, prefix function",
    "generate, mask processor",
    "ours, unconstrained",
)
SAME, DEFAULT, HALF = "ours, over the vocabulary", "ours", "ours, bfloat16"
OURS = (SAME, DEFAULT, HALF)
METHODS = [
    Method(REFERENCE, prepare_prefix_function),
    Method(MASKED, prepare_mask_processor),
    Method(FREE, prepare_unconstrained),
    Method(SAME, prepare_ours("vocabulary")),
    Method(DEFAULT, prepare_ours("allowed")),
    Method(HALF, prepare_ours("allowed", precision="bfloat16")),
]
