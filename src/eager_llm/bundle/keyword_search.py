"""Items by the words of their titles: plain matching, without a model."""

import re
from functools import cached_property

import numpy as np
import pandas as pd

_WORD = re.compile(r"\w+")
SEARCHED_COLUMNS = ("item_id", "title", "brand", "categories")


class KeywordSearch:
    """Finds items by the words of their id, title, brand and categories.

    Args:
        items: the catalogue; equally good items come in its order.
    """

    def __init__(self, items: pd.DataFrame) -> None:
        self.item_ids: list[str] = items["item_id"].tolist()
        columns: list[pd.Series] = []
        for name in SEARCHED_COLUMNS:
            column = items[name].fillna("")
            columns.append(column.astype(str))
        self._texts = list(map(" ".join, zip(*columns, strict=True)))

    def find(self, query: str, k: int) -> list[str]:
        """Return up to k item ids, those with the most words of the query first.

        The last word may be the beginning of a word. A query without words returns the first items.
        """
        words = list(dict.fromkeys(_words(query)))
        if not words:
            return self.item_ids[:k]
        matches = np.zeros(len(self.item_ids), dtype=np.int32)
        *whole_words, last_word = words
        for word in whole_words:
            rows = self._rows_by_word.get(word)
            if rows is not None:
                matches[rows] += 1
        matches += self._begins_with(last_word)
        best = np.argsort(-matches, kind="stable")[:k]
        return [self.item_ids[row] for row in best if matches[row]]

    def _begins_with(self, prefix: str) -> np.ndarray:
        """Return which items hold a word with this beginning, bool [items]."""
        matches = np.zeros(len(self.item_ids), dtype=bool)
        for word, rows in self._rows_by_word.items():
            if word.startswith(prefix):
                matches[rows] = True
        return matches

    @cached_property
    def _rows_by_word(self) -> dict[str, np.ndarray]:
        """The rows of the items that hold each word, int32, in rising order."""
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(self._texts):
            for word in set(_words(text)):
                rows_of_word = rows.setdefault(word, [])
                rows_of_word.append(row)
        arrays: dict[str, np.ndarray] = {}
        for word, numbers in rows.items():
            arrays[word] = np.array(numbers, dtype=np.int32)
        return arrays


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
