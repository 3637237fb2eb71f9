"""Items by the words of their titles: plain matching, without a model."""

import re
from functools import cached_property

import numpy as np
import pandas as pd

_WORD = re.compile(r"\w+")


class KeywordSearch:
    """Finds items whose title, brand and categories hold the words that are asked for.

    Args:
        items: the catalogue, in the order in which equally good items shall come.
    """

    def __init__(self, items: pd.DataFrame) -> None:
        self.item_ids: list[str] = items["item_id"].tolist()
        columns = [
            items[name].fillna("").astype(str)
            for name in ("item_id", "title", "brand", "categories")
        ]
        self._texts = [" ".join(row) for row in zip(*columns, strict=True)]

    def find(self, words: str, k: int) -> list[str]:
        """Return up to k items by how many of the words they hold; the last word may be a beginning."""
        asked = list(dict.fromkeys(_words(words)))
        if not asked:
            return self.item_ids[:k]
        held = np.zeros(len(self.item_ids), dtype=np.int32)
        for number, word in enumerate(asked):
            rows = [self._holding.get(word)]
            if number == len(asked) - 1:
                rows = [found for known, found in self._holding.items() if known.startswith(word)]
            there = np.zeros(len(held), dtype=bool)
            for found in rows:
                if found is not None:
                    there[found] = True
            held += there
        best = np.argsort(-held, kind="stable")[:k]
        return [self.item_ids[row] for row in best if held[row]]

    @cached_property
    def _holding(self) -> dict[str, np.ndarray]:
        """The rows of the items that hold each word."""
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(self._texts):
            for word in set(_words(text)):
                rows.setdefault(word, []).append(row)
        return {word: np.array(found, dtype=np.int32) for word, found in rows.items()}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
