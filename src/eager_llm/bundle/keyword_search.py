"""Items by the words of their titles: plain matching, without a model."""

import re
from bisect import bisect_left, bisect_right
from functools import cached_property

import numpy as np
import pandas as pd

_WORD = re.compile(r"\w+")
# Sorts behind every word with the same beginning.
LAST_CHARACTER = chr(0x10FFFF)
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

    def find(self, query: str, k: int, passes: np.ndarray | None = None) -> list[str]:
        """Return up to k item ids, those with the most words of the query first.

        The last word may be the beginning of a word. A query without words returns the first items.

        Args:
            passes: which items may come, bool [items] in the order of the catalogue; None: all.
        """
        if passes is None:
            passes = np.ones(len(self.item_ids), dtype=bool)
        words = list(dict.fromkeys(_words(query)))
        if words:
            matches = self._count_matches(words)
            matches[~passes] = 0
            found = np.flatnonzero(matches)
            order = np.argsort(-matches[found], kind="stable")
            found = found[order]
        else:
            found = np.flatnonzero(passes)
        return [self.item_ids[row] for row in found[:k]]

    def _count_matches(self, words: list[str]) -> np.ndarray:
        """Return how many of some words, the last one as a beginning, each item has, int32."""
        matches = np.zeros(len(self.item_ids), dtype=np.int32)
        for word in words[:-1]:
            matches[self._rows_of(word, word)] += 1
        beginning = words[-1]
        has_last = np.zeros(len(self.item_ids), dtype=bool)
        has_last[self._rows_of(beginning, beginning + LAST_CHARACTER)] = True
        return matches + has_last

    def _rows_of(self, first: str, last: str) -> np.ndarray:
        """Return the rows of the items that hold words from the first to the last, int32."""
        words, starts, rows = self._rows_by_word
        start = starts[bisect_left(words, first)]
        end = starts[bisect_right(words, last)]
        return rows[start:end]

    @cached_property
    def _rows_by_word(self) -> tuple[list[str], list[int], np.ndarray]:
        """All words, sorted; where the rows of each begin, and their end; the rows, int32."""
        rows_of: dict[str, list[int]] = {}
        for row, text in enumerate(self._texts):
            for word in set(_words(text)):
                rows_of.setdefault(word, []).append(row)
        words = sorted(rows_of)
        rows: list[int] = []
        starts = [0]
        for word in words:
            rows += rows_of[word]
            starts.append(len(rows))
        return words, starts, np.array(rows, dtype=np.int32)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
