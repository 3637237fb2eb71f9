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
        rows = rng.permutation(len(prompt_builder.item_tokens))
        for row in rows.tolist():
            if len(self._title(row)) < 2:  # the end of the answer alone: the item has no text
                continue
            is_held_out = row in prompt_builder.held_out
            group = self.held_out_items if is_held_out else self.items
            if len(group) < items:
                group.append(row)

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
        written = self._written_titles(recommender.model)
        is_right = named == np.asarray(self.items)
        overlaps: list[float] = []
        for item, text in zip(self.items, written, strict=True):
            title = self._decode(self._title(item))
            overlaps.append(rouge_l(text, title))
        return {
            ACCURACY: is_right.astype(float),
            OVERLAP: np.array(overlaps),
        }

    @torch.inference_mode()
    def held_out_likelihood(self, recommender: Recommender) -> TextLikelihood:
        """Return the negative log-likelihood of each held-out title."""
        model = recommender.model.eval()
        batch = self._held_out_batch().to(model.device)
        output = hidden_states(model, batch.ids, use_cache=False)
        # The state before a token predicts it.
        states = output.last_hidden_state[:, :-1]
        ids = batch.ids[:, 1:]
        is_title = batch.loss_mask[:, 1:]
        count = len(self.held_out_items)
        likelihood = TextLikelihood(np.zeros(count), np.zeros(count), np.zeros(count))
        for row, item in enumerate(self.held_out_items):
            positions = is_title[row]
            loss = cross_entropy(model, states[row][positions], ids[row][positions])
            text = self._decode(self._title(item))
            likelihood.negative_log_likelihood[row] = float(loss)
            likelihood.tokens[row] = int(positions.sum())
            likelihood.characters[row] = len(text)
        return likelihood

    def _held_out_batch(self) -> Batch:
        """Return the held-out titles after their prompts, as one batch."""
        builder = self.prompt_builder
        examples: list[Example] = []
        for item in self.held_out_items:
            prompt, title = builder.probe_prompt("index2item", item)
            ids = [*prompt, *title]
            loss_mask = [False] * len(prompt) + [True] * len(title)
            examples.append(Example(ids, loss_mask, []))
        padding = builder.tokenizer.pad_token_id or 0
        return collate(examples, padding)

    def _named_items(self, recommender: Recommender) -> np.ndarray:
        """Return the item that is named for each item's title, int64 [I]."""
        named, _ = beam_search(
            recommender.model,
            recommender.trie,
            self._prompts("item2index"),
            beams=1,
            normalise=recommender.settings.normalise,
            prompt_attention=recommender.prompt_attention,
        )
        return np.asarray(named[:, 0].tolist())

    def _written_titles(self, model: Any) -> list[str]:
        """Return the title that the model writes for each item, greedily."""
        # One template with as many tokens for every item: the prompts are of one length.
        prompts = torch.tensor(self._prompts("index2item"), device=model.device)
        answers = prompts[:, :0]
        end_token = self.prompt_builder.tokenizer.eos_token_id
        inputs = prompts
        cache = None
        for _ in range(self.prompt_builder.text_tokens):
            output = hidden_states(model, inputs, use_cache=True, past_key_values=cache)
            cache = output.past_key_values
            last_states = output.last_hidden_state[:, -1]
            tokens = logits_of(model, last_states).argmax(-1)
            inputs = tokens[:, None]
            answers = torch.cat([answers, inputs], dim=1)
            if end_token is None:
                continue
            has_ended = (answers == end_token).any(1)
            if bool(has_ended.all()):
                break
        texts: list[str] = []
        for answer in answers.tolist():
            if end_token in answer:
                answer = answer[: answer.index(end_token)]
            texts.append(self._decode(answer))
        return texts

    def _prompts(self, task: str) -> list[list[int]]:
        """Return the prompt of a task for each item."""
        prompts: list[list[int]] = []
        for item in self.items:
            prompt, _ = self.prompt_builder.probe_prompt(task, item)
            prompts.append(prompt)
        return prompts

    def _title(self, item: int) -> list[int]:
        """Return the tokens of an item's title."""
        _, title = self.prompt_builder.probe_prompt("index2item", item)
        return title

    def _decode(self, ids: list[int]) -> str:
        text = self.prompt_builder.tokenizer.decode(ids, skip_special_tokens=True)
        return str(text)


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
