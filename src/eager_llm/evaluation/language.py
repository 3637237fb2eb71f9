"""What is kept of language: items named from words, words written for items, and the perplexity of held-out texts."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from eager_llm.backbone.loading import hidden_states, logits_of, set_adapter_strength
from eager_llm.core.progress import progress
from eager_llm.decoding.beam import beam_search
from eager_llm.decoding.recommender import Recommender
from eager_llm.prompts.builder import Example, PromptBuilder
from eager_llm.tuning.batches import collate
from eager_llm.tuning.loss import cross_entropy

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
HELD_OUT_PERPLEXITY = "perplexity of held-out texts"
MEASURES = ("item2index accuracy", "index2item overlap", HELD_OUT_PERPLEXITY)
Row = dict[str, float]


class LanguageProbe:
    """The questions, the same for every model that is compared.

    Args:
        book: writes the questions in phrasings that were never trained on; its held_out items' titles are the
            unseen texts.
        items: how many items of each kind are asked about, at most.
        seed: draws them.

    Attributes:
        known: rows of items that are asked about.
        unseen: rows of items whose titles are the unseen texts.
    """

    def __init__(self, book: PromptBuilder, items: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        told = [
            row
            for row in rng.permutation(len(book.item_tokens)).tolist()
            if book.question("index2item", row)[1][1:]
        ]
        self.book = book
        self.known = [row for row in told if row not in book.held_out][:items]
        self.unseen = [row for row in told if row in book.held_out][:items]

    def measure(self, recommender: Recommender) -> Row:
        """Return the measures that the catalogue's texts allow; see `MEASURES`.

        item2index accuracy: share of titles for which greedy decoding over the index names that very item.
        index2item overlap: ROUGE-L F1 of the greedily written title against the real one, averaged.
        perplexity of held-out texts: exp of the mean cross-entropy a token of titles of items whose texts no task used.
        """
        row = {name: float(np.mean(values)) for name, values in self.answers(recommender).items()}
        if self.unseen:
            negative_log_likelihood, tokens, _ = self.negative_log_likelihood(recommender)
            row[MEASURES[2]] = math.exp(negative_log_likelihood.sum() / tokens.sum())
        return row

    @torch.inference_mode()
    def answers(self, recommender: Recommender) -> dict[str, np.ndarray]:
        """Return the first two measures of each known item, float [known]; empty where none is known."""
        if not self.known:
            return {}
        model = recommender.model.eval()
        prompts = [self.book.question("item2index", item)[0] for item in self.known]
        named, _ = beam_search(
            model,
            recommender.trie,
            prompts,
            1,
            recommender.settings.normalise,
            reader=recommender.reader,
        )
        right = np.asarray(named[:, 0].tolist()) == np.asarray(self.known)
        alike = np.array([rouge_l(said, title) for said, title in self._written(model)])
        return {MEASURES[0]: right.astype(float), MEASURES[1]: alike}

    @torch.inference_mode()
    def negative_log_likelihood(
        self, recommender: Recommender
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the cross-entropy of each unseen title, its tokens and its characters; each float [unseen]."""
        model = recommender.model.eval()
        questions = [self.book.question("index2item", item) for item in self.unseen]
        examples = [Example([*p, *a], [False] * len(p) + [True] * len(a), []) for p, a in questions]
        batch = collate(examples, self.book.tokenizer.pad_token_id or 0).to(model.device)
        hidden = hidden_states(model, batch.ids, use_cache=False).last_hidden_state[:, :-1]
        rows = []
        for states, ids, learned, (_, answer) in zip(
            hidden, batch.ids[:, 1:], batch.loss_mask[:, 1:], questions, strict=True
        ):
            text = self.book.tokenizer.decode(answer, skip_special_tokens=True)
            rows.append(
                (
                    float(cross_entropy(model, states[learned], ids[learned])),
                    int(learned.sum()),
                    len(text),
                )
            )
        negative_log_likelihood, tokens, characters = np.array(rows, dtype=float).reshape(-1, 3).T
        return negative_log_likelihood, tokens, characters

    def _written(self, model: Any) -> list[tuple[str, str]]:
        """Return what the model writes as each known item's title, and the title."""
        asked = [self.book.question("index2item", item) for item in self.known]
        # One phrasing with as many tokens for every item: the prompts are of one length.
        ids = torch.tensor([prompt for prompt, _ in asked], device=model.device)
        end, length = self.book.tokenizer.eos_token_id, ids.shape[1]
        read_now, memory = ids, None
        for _ in range(self.book.text_tokens):
            seen = hidden_states(model, read_now, use_cache=True, past_key_values=memory)
            step = logits_of(model, seen.last_hidden_state[:, -1]).argmax(-1)[:, None]
            ids, read_now, memory = torch.cat([ids, step], dim=1), step, seen.past_key_values
            if end is not None and bool((ids[:, length:] == end).any(1).all()):
                break
        said = [row[: row.index(end)] if end in row else row for row in ids[:, length:].tolist()]
        read = self.book.tokenizer.decode
        return [
            (read(one, skip_special_tokens=True), read(title, skip_special_tokens=True))
            for one, (_, title) in zip(said, asked, strict=True)
        ]


def rouge_l(said: str, real: str) -> float:
    """Return the F1 of the longest common subsequence of words (ROUGE-L; Lin 2004), letter case left quarantine."""
    a, b = re.findall(r"\w+", said.lower()), re.findall(r"\w+", real.lower())
    if not a or not b:
        return float(a == b)
    longest = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for n, other in enumerate(b, start=1):
            before, longest[n] = (
                longest[n],
                before + 1 if word == other else max(longest[n], longest[n - 1]),
            )
    return 2 * longest[-1] / (len(a) + len(b))


def sweep_adapter(
    recommender: Recommender,
    probe: LanguageProbe,
    quality: Callable[[Recommender], float],
    show: bool = True,
) -> list[Row]:
    """Return recommendation and language along the adapter's strength, and leave it at 1.

    Args:
        recommender: its model is a PEFT model, not merged.
        quality: NDCG@10 on validation.
    """
    rows = []
    for strength in progress(
        STRENGTHS, desc="adapter's strength", unit="strength", disable=not show
    ):
        set_adapter_strength(recommender.model, strength)
        # What is remembered of earlier prompts belongs to another strength.
        fresh = recommender.again()
        rows.append({"strength": strength, "ndcg@10": quality(fresh), **probe.measure(fresh)})
    set_adapter_strength(recommender.model, 1.0)
    return rows
