"""From histories of item ids to recommended item ids."""

from typing import Any

import numpy as np

from eager_llm.decoding.beam import beam_search
from eager_llm.decoding.trie import Trie
from eager_llm.index.item_index import ItemIndex
from eager_llm.progress import progress
from eager_llm.settings import DecodingSettings
from eager_llm.tuning.tasks import TaskBook


class Recommender:
    """A tuned model over an item index.

    Args:
        model: a causal LM, with its adapter on where it has one.
        book: writes the prompts.
        max_history: items of a history that are read, the latest ones.
    """

    def __init__(
        self, model: Any, book: TaskBook, index: ItemIndex, settings: DecodingSettings, max_history: int
    ) -> None:
        self.model, self.book, self.index = model, book, index
        self.settings, self.max_history = settings, max_history
        self.trie = Trie(book.item_tokens, str(model.device))

    def recommend(self, histories: list[list[str]], k: int, show: bool = False) -> list[list[tuple[str, float]]]:
        """Return the k best items with their scores for each history, best first.

        Args:
            histories: item ids, oldest first; unknown ones raise KeyError.
            k: how many; fewer come only where the catalogue has fewer.
            show: whether to show the progress.
        """
        beams = max(self.settings.beams, k)
        # Alike lengths decode together: little padding.
        order = sorted(range(len(histories)), key=lambda n: len(histories[n]))
        answers: list[list[tuple[str, float]]] = [[] for _ in histories]
        starts = range(0, len(order), self.settings.batch)
        for start in progress(starts, desc="recommending", unit="batch", disable=not show):
            batch = order[start : start + self.settings.batch]
            rows = [[self.index.rows[item] for item in histories[n]][-self.max_history :] for n in batch]
            padding = self.book.tokenizer.pad_token_id or 0
            items, scores = beam_search(self.model, self.trie, [self.book.prompt(r) for r in rows], beams, padding)
            for number, found, score in zip(batch, items.tolist(), scores.tolist(), strict=True):
                pairs = zip(found[:k], score[:k], strict=True)
                answers[number] = [(self.index.item_ids[i], s) for i, s in pairs if np.isfinite(s)]
        return answers
