"""The columns of a catalogue, prepared for filters: whole arrays are compared at once.

Shapes: N items.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.core.short_text import shortened

# A whole number is compared digit by digit: an int stays one, however large.
Value = str | int | float | bool
# Columns whose cells are lists joined by commas: a cell equals each of its labels.
LISTS = ("categories",)
# Characters of a number in a text.
LONGEST_NUMBER = 400
_TRUTH = {"true": True, "false": False}


class NumberColumn:
    """A column of numbers. Whole numbers are compared exactly, above 2^53, too.

    Args:
        name: of the column.
        cells: its numbers, N of them; empty ones meet no condition.
    """

    def __init__(self, name: str, cells: pd.Series) -> None:
        self.name = name
        self.is_whole = pd.api.types.is_integer_dtype(cells)
        self._is_given = cells.notna().to_numpy()
        if self.is_whole:
            unsigned = pd.api.types.is_unsigned_integer_dtype(cells)
            kind = np.dtype(np.uint64 if unsigned else np.int64)
            self._cells = cells.fillna(0).to_numpy(dtype=kind)
        else:
            self._cells = cells.to_numpy(dtype=np.float64, na_value=np.nan)

    def one_of(self, values: Sequence[Value]) -> np.ndarray:
        """Return where the cell is one of some values, bool [N]. Raises UserError for no number."""
        numbers = [self._number(value) for value in values]
        fitting = [number for number in map(self._as_cell, numbers) if number is not None]
        wanted = np.array(fitting, dtype=self._cells.dtype)
        return np.isin(self._cells, wanted) & self._is_given

    def between(self, least: int | float | None, most: int | float | None) -> np.ndarray:
        """Return where the cell is within bounds, bool [N]."""
        matches = self._is_given.copy()
        if least is not None:
            matches &= self._at_least(least)
        if most is not None:
            matches &= self._at_most(most)
        return matches

    def _number(self, value: Value) -> int | float:
        number = parse_number(value) if isinstance(value, str) else value
        if number is None or isinstance(number, bool):
            raise UserError(
                f"filter on {self.name!r}: {shortened(repr(value))} is not a number, "
                "as the column's cells are"
            )
        return number

    def _as_cell(self, number: int | float) -> int | float | None:
        """Return a number as a cell may hold it, or None where none can."""
        if not self.is_whole:
            nearest = _nearest_float(number)
            return nearest if nearest == number else None
        if isinstance(number, float):
            if not number.is_integer():
                return None
            number = int(number)
        limits = np.iinfo(self._cells.dtype)
        return number if limits.min <= number <= limits.max else None

    def _at_least(self, least: int | float) -> np.ndarray:
        if not self.is_whole:
            bound = _nearest_float(least)
            if bound < least:
                bound = math.nextafter(bound, math.inf)
            return self._cells >= bound
        limits = np.iinfo(self._cells.dtype)
        if least > limits.max:
            return np.zeros(len(self._cells), dtype=bool)
        bound = limits.min if least <= limits.min else math.ceil(least)
        return self._cells >= self._cells.dtype.type(bound)

    def _at_most(self, most: int | float) -> np.ndarray:
        if not self.is_whole:
            bound = _nearest_float(most)
            if bound > most:
                bound = math.nextafter(bound, -math.inf)
            return self._cells <= bound
        limits = np.iinfo(self._cells.dtype)
        if most < limits.min:
            return np.zeros(len(self._cells), dtype=bool)
        bound = limits.max if most >= limits.max else math.floor(most)
        return self._cells <= self._cells.dtype.type(bound)


class FlagColumn:
    """A column of true and false; an empty cell is neither.

    Args:
        name: of the column.
        cells: N of them.
    """

    def __init__(self, name: str, cells: pd.Series) -> None:
        self.name = name
        self._is_given = cells.notna().to_numpy()
        self._cells = cells.fillna(False).to_numpy(dtype=bool)

    def one_of(self, values: Sequence[Value]) -> np.ndarray:
        """Return where the cell is one of some values, bool [N]. Raises UserError for no flag."""
        flags = {self._flag(value) for value in values}
        return np.isin(self._cells, list(flags)) & self._is_given

    def between(self, least: int | float | None, most: int | float | None) -> np.ndarray:
        """Raise UserError: flags have no order."""
        raise UserError(
            f"filter on {self.name!r}: the column holds true and false; it has no ranges"
        )

    def _flag(self, value: Value) -> bool:
        flag = _TRUTH.get(str(value).lower())
        if flag is None:
            raise UserError(
                f"filter on {self.name!r}: {shortened(repr(value))} is neither true nor false"
            )
        return flag


class TextColumn:
    """A column of texts, or of lists of texts.

    Args:
        name: of the column.
        cells: N of them; an empty cell is the empty text.
    """

    def __init__(self, name: str, cells: pd.Series) -> None:
        self.name = name
        self._items = len(cells)
        # A code a label; the item row of each label (None: one a row, in order); the labels.
        self._codes: np.ndarray
        self._rows: np.ndarray | None = None
        texts = cells.where(cells.notna(), "")
        if name not in LISTS:
            self._codes, self._labels = _coded(texts)
            return
        lists = [str(cell).split(",") for cell in texts]
        lengths = [len(labels) for labels in lists]
        self._rows = np.repeat(np.arange(len(lists)), lengths)
        stripped = [label.strip() for label in chain.from_iterable(lists)]
        self._codes, self._labels = _coded(np.array(stripped, dtype=object))

    def prepare(self) -> None:
        """Build what look-ups need."""
        _ = self._code_of

    def unknown(self, values: Sequence[Value]) -> list[Value]:
        """Return those of some values that no cell has, in their order."""
        return [value for value in values if value not in self._code_of]

    def one_of(self, values: Sequence[Value]) -> np.ndarray:
        """Return where the cell is one of some values, bool [N]; unknown ones match nothing.

        Raises:
            UserError: a value is no text.
        """
        for value in values:
            if not isinstance(value, str):
                raise UserError(
                    f"filter on {self.name!r}: {shortened(repr(value))} is not text, "
                    "as the column's cells are"
                )
        known = self._code_of.keys() & set(values)
        codes = [self._code_of[value] for value in known]
        is_wanted = np.zeros(len(self._code_of), dtype=bool)
        is_wanted[codes] = True
        matches = is_wanted[self._codes]
        if self._rows is None:
            return matches
        item_matches = np.zeros(self._items, dtype=bool)
        item_matches[self._rows[matches]] = True
        return item_matches

    def between(self, least: int | float | None, most: int | float | None) -> np.ndarray:
        """Raise UserError: texts have no range."""
        raise UserError(f"filter on {self.name!r}: the column holds text; a range needs numbers")

    @cached_property
    def _code_of(self) -> dict[Any, int]:
        return {label: code for code, label in enumerate(self._labels)}


Column = NumberColumn | FlagColumn | TextColumn


def column_of(name: str, cells: pd.Series) -> Column:
    """Return the column of some cells, prepared for its kind."""
    if pd.api.types.is_bool_dtype(cells):
        return FlagColumn(name, cells)
    if pd.api.types.is_numeric_dtype(cells):
        return NumberColumn(name, cells)
    column = TextColumn(name, cells)
    column.prepare()
    return column


def parse_number(text: str) -> int | float | None:
    """Return the number that a text writes, a whole one exactly; None where it writes none."""
    if "_" in text or len(text) > LONGEST_NUMBER:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _nearest_float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _coded(cells: Any) -> tuple[np.ndarray, Any]:
    """Return a code a cell, in the smallest type that holds them, and the labels."""
    codes, labels = pd.factorize(cells)
    return codes.astype(np.min_scalar_type(max(len(labels), 1))), labels
