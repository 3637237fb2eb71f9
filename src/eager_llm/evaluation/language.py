"""What a tuned model keeps of language.

It names items from titles, it writes titles of items, and the perplexity of held-out titles says
how well it reads.

Shapes: I probed items, H held-out items.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from eager_llm.backbone.adapter_strength import set_adapter_strength
from eager_llm.backbone.hidden_states import hidden_states
from eager_llm.backbone.logits import logits_of
from eager_llm.core.progress import progress
from eager_llm.decoding.beam import beam_search
from eager_llm.decoding.recommender import Recommender
from eager_llm.evaluation.rouge import rouge_l
from eager_llm.prompts.builder import Example, PromptBuilder
from eager_llm.tuning.batches import Batch, collate
from eager_llm.tuning.loss import cross_entropy

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
ACCURACY = "item2index accuracy"
OVERLAP = "index2item overlap"
HELD_OUT_PERPLEXITY = "perplexity of held-out texts"
MEASURES = (ACCURACY, OVERLAP, HELD_OUT_PERPLEXITY)

Row = dict[str, float]


class TextLikelihood(NamedTuple):
    """The negative log-likelihood of each held-out title, in nats.

    Attributes:
        negative_log_likelihood: float [H], summed over the title's tokens.
        tokens: float [H], tokens of the title.
        characters: float [H], characters of the title.
    """

    negative_log_likelihood: np.ndarray
    tokens: np.ndarray
    characters: np.ndarray


class LanguageProbe:
    """Prompts about items, the same for every model that is compared.

    The prompts are in templates that were never trained on.

    Args:
        prompt_builder: builds the prompts; the titles of its held-out items are the held-out texts.
        items: number of items of each kind, at most.
        seed: draws them.

    Attributes:
        items: rows of the items that are named and whose titles are written.
        held_out_items: rows of the items whose titles are the held-out texts.
    """

    def __init__(self, prompt_builder: PromptBuilder, items: int, seed: int) -> None:
        self.prompt_builder = prompt_builder
        self.items: list[int] = []
        self.held_out_items: list[int] = []
        rng = np.random.default_rng(seed)
        for row in rng.permutation(len(prompt_builder.item_tokens)).tolist():
            _, title = prompt_builder.probe_prompt("index2item", row)
            if len(title) < 2:  # the end of the answer alone: the item has no text
                continue
            if row in prompt_builder.held_out:
                self.held_out_items.append(row)
            else:
                self.items.append(row)
        self.items = self.items[:items]
        self.held_out_items = self.held_out_items[:items]

    def measure(self, recommender: Recommender) -> Row:
        """Return the measures that the catalogue's texts allow; see `MEASURES`.

        item2index accuracy: share of titles for which greedy decoding over the index names that
            very item.
        index2item overlap: ROUGE-L F1 of the greedily written title against the real one,
            averaged.
        perplexity of held-out texts: exp of the mean negative log-likelihood a token, over titles
            of items whose texts no task has used.
        """
        row: Row = {}
        for name, values in self.answers(recommender).items():
            row[name] = float(np.mean(values))
        if self.held_out_items:
            titles = self.held_out_likelihood(recommender)
            mean = titles.negative_log_likelihood.sum() / titles.tokens.sum()
            row[HELD_OUT_PERPLEXITY] = math.exp(mean)
        return row

    @torch.inference_mode()
    def answers(self, recommender: Recommender) -> dict[str, np.ndarray]:
        """Return accuracy and overlap of each item, float [I] each; empty where there is none."""
        if not self.items:
            return {}
        recommender.model.eval()
        named = self._named_items(recommender)
        overlaps: list[float] = []
        written = self._written_titles(recommender.model)
        for item, text in zip(self.items, written, strict=True):
            overlaps.append(rouge_l(text, self._decode(self._title(item))))
        accuracy = (named == np.asarray(self.items)).astype(float)
        return {ACCURACY: accuracy, OVERLAP: np.array(overlaps)}

    @torch.inference_mode()
    def held_out_likelihood(self, recommender: Recommender) -> TextLikelihood:
        """Return the negative log-likelihood of each held-out title."""
        model = recommender.model.eval()
        batch = self._held_out_batch().to(model.device)
        hidden = hidden_states(model, batch.ids, use_cache=False).last_hidden_state
        # The state before a token predicts it.
        columns = (hidden[:, :-1], batch.ids[:, 1:], batch.loss_mask[:, 1:], self.held_out_items)
        rows: list[tuple[float, int, int]] = []
        for states, ids, is_title, item in zip(*columns, strict=True):
            negative_log_likelihood = float(cross_entropy(model, states[is_title], ids[is_title]))
            text = self._decode(self._title(item))
            rows.append((negative_log_likelihood, int(is_title.sum()), len(text)))
        return TextLikelihood(*np.array(rows, dtype=float).reshape(-1, 3).T)

    def _held_out_batch(self) -> Batch:
        """Return the held-out titles after their prompts, as one batch."""
        examples: list[Example] = []
        for item in self.held_out_items:
            prompt, title = self.prompt_builder.probe_prompt("index2item", item)
            loss_mask = [False] * len(prompt) + [True] * len(title)
            examples.append(Example([*prompt, *title], loss_mask, []))
        return collate(examples, self.prompt_builder.tokenizer.pad_token_id or 0)

    def _named_items(self, recommender: Recommender) -> np.ndarray:
        """Return the item that is named for each item's title, int64 [I]."""
        prompts: list[list[int]] = []
        for item in self.items:
            prompt, _ = self.prompt_builder.probe_prompt("item2index", item)
            prompts.append(prompt)
        named, _ = beam_search(
            recommender.model,
            recommender.trie,
            prompts,
            1,
            recommender.settings.normalise,
            prompt_attention=recommender.prompt_attention,
        )
        return np.asarray(named[:, 0].tolist())

    def _written_titles(self, model: Any) -> list[str]:
        """Return the title that the model writes for each item, greedily."""
        prompts: list[list[int]] = []
        for item in self.items:
            prompt, _ = self.prompt_builder.probe_prompt("index2item", item)
            prompts.append(prompt)
        # One template with as many tokens for every item: the prompts are of one length.
        ids = torch.tensor(prompts, device=model.device)
        start = ids.shape[1]
        end_token = self.prompt_builder.tokenizer.eos_token_id
        inputs, cache = ids, None
        for _ in range(self.prompt_builder.text_tokens):
            output = hidden_states(model, inputs, use_cache=True, past_key_values=cache)
            logits = logits_of(model, output.last_hidden_state[:, -1])
            inputs, cache = logits.argmax(-1)[:, None], output.past_key_values
            ids = torch.cat([ids, inputs], dim=1)
            if end_token is not None and bool((ids[:, start:] == end_token).any(1).all()):
                break
        texts: list[str] = []
        for answer in ids[:, start:].tolist():
            if end_token in answer:
                answer = answer[: answer.index(end_token)]
            texts.append(self._decode(answer))
        return texts

    def _title(self, item: int) -> list[int]:
        """Return the tokens of an item's title."""
        _, title = self.prompt_builder.probe_prompt("index2item", item)
        return title

    def _decode(self, ids: list[int]) -> str:
        return str(self.prompt_builder.tokenizer.decode(ids, skip_special_tokens=True))


def sweep_adapter(
    recommender: Recommender,
    probe: LanguageProbe,
    quality: Callable[[Recommender], float],
    show: bool = True,
) -> list[Row]:
    """Return recommendation and language for each strength of the adapter, and leave it at 1.

    Args:
        recommender: its model is a PEFT model, not merged; it has no prefix cache.
        quality: NDCG@10 on validation.
        show: whether to show the progress.
    """
    rows: list[Row] = []
    strengths = progress(STRENGTHS, desc="adapter's strength", unit="strength", disable=not show)
    for strength in strengths:
        set_adapter_strength(recommender.model, strength)
        measures = probe.measure(recommender)
        rows.append({"strength": strength, "ndcg@10": quality(recommender), **measures})
    set_adapter_strength(recommender.model, 1.0)
    return rows
