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


class WholeNumberColumn:
    """A column of whole numbers, compared exactly, above 2^53, too.

    Args:
        name: of the column.
        cells: its numbers, N of them; empty ones meet no condition.
    """

    def __init__(self, name: str, cells: pd.Series) -> None:
        self.name = name
        is_unsigned = pd.api.types.is_unsigned_integer_dtype(cells)
        kind = np.uint64 if is_unsigned else np.int64
        limits = np.iinfo(kind)
        self._least = int(limits.min)
        self._most = int(limits.max)
        self._is_given = cells.notna().to_numpy()
        self._cells = cells.fillna(0).to_numpy(dtype=kind)

    def one_of(self, values: Sequence[Value]) -> np.ndarray:
        """Return where the cell is one of some values, bool [N].

        Raises:
            UserError: a value is no number.
        """
        fitting: list[int] = []
        for value in values:
            number = _number(self.name, value)
            if self._least <= number <= self._most and number == int(number):
                fitting.append(int(number))
        wanted = np.array(fitting, dtype=self._cells.dtype)
        return np.isin(self._cells, wanted) & self._is_given

    def between(self, least: int | float | None, most: int | float | None) -> np.ndarray:
        """Return where the cell is within bounds, bool [N]."""
        low = self._least
        if least is not None and least > low:
            if least > self._most:
                return np.zeros(len(self._cells), dtype=bool)
            low = math.ceil(least)
        high = self._most
        if most is not None and most < high:
            if most < self._least:
                return np.zeros(len(self._cells), dtype=bool)
            high = math.floor(most)
        kind = self._cells.dtype.type
        is_high_enough = self._cells >= kind(low)
        is_low_enough = self._cells <= kind(high)
        return is_high_enough & is_low_enough & self._is_given


class FloatColumn:
    """A column of floating-point numbers, compared with whole numbers exactly.

    Args:
        name: of the column.
        cells: its numbers, N of them; empty ones meet no condition.
    """

    def __init__(self, name: str, cells: pd.Series) -> None:
        self.name = name
        # An empty cell is NaN, which equals nothing and is in no range.
        self._cells = cells.to_numpy(dtype=np.float64, na_value=np.nan)

    def one_of(self, values: Sequence[Value]) -> np.ndarray:
        """Return where the cell is one of some values, bool [N].

        Raises:
            UserError: a value is no number.
        """
        fitting: list[float] = []
        for value in values:
            number = _number(self.name, value)
            nearest = _nearest_float(number)
            if nearest == number:
                fitting.append(nearest)
        return np.isin(self._cells, np.array(fitting, dtype=np.float64))

    def between(self, least: int | float | None, most: int | float | None) -> np.ndarray:
        """Return where the cell is within bounds, bool [N]."""
        matches = ~np.isnan(self._cells)
        if least is not None:
            low = _nearest_float(least)
            if low < least:
                low = math.nextafter(low, math.inf)
            matches &= self._cells >= low
        if most is not None:
            high = _nearest_float(most)
            if high > most:
                high = math.nextafter(high, -math.inf)
            matches &= self._cells <= high
        return matches


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
        """Return where the cell is one of some values, bool [N].

        Raises:
            UserError: a value is neither true nor false.
        """
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


Column = WholeNumberColumn | FloatColumn | FlagColumn | TextColumn


def column_of(name: str, cells: pd.Series) -> Column:
    """Return the column of some cells, prepared for its kind."""
    if pd.api.types.is_bool_dtype(cells):
        return FlagColumn(name, cells)
    if pd.api.types.is_integer_dtype(cells):
        return WholeNumberColumn(name, cells)
    if pd.api.types.is_numeric_dtype(cells):
        return FloatColumn(name, cells)
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


def _number(column: str, value: Value) -> int | float:
    """Return a value as a number. Raises UserError where it is none."""
    number = parse_number(value) if isinstance(value, str) else value
    if number is None or isinstance(number, bool):
        shown = shortened(repr(value))
        raise UserError(f"filter on {column!r}: {shown} is not a number, as the column's cells are")
    return number


def _nearest_float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _coded(cells: Any) -> tuple[np.ndarray, Any]:
    """Return a code a cell, in the smallest type that holds them, and the labels."""
    codes, labels = pd.factorize(cells)
    smallest = np.min_scalar_type(len(labels))
    return codes.astype(smallest), labels
