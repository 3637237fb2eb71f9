"""The filter language: conditions on catalogue columns, and which items meet them."""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError

Value = str | float | bool
ITEM_ID = "item_id"
# Columns whose cells are lists joined by commas: a cell equals each of its labels.
LISTS = ("categories",)
_CONDITION = re.compile(r"\s*([^=!<>]*[^=!<>\s])\s*(!=|<=|>=|=)\s*(.*\S)\s*")
_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class OneOf:
    """A cell is one of some values; of `categories`, one of the cell's labels is.

    Attributes:
        column: a column of the catalogue.
        values: in any order; texts are compared as they are written.
        deny: items that meet the condition are left out, instead of all others.
    """

    column: str
    values: tuple[Value, ...]
    deny: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.values, str) or not self.values:
            raise UserError(f"filter on {self.column!r}: name at least one value, in a list")
        ordered = sorted(set(self.values), key=_sort_key)
        object.__setattr__(self, "values", tuple(ordered))

    def __str__(self) -> str:
        operator = "!=" if self.deny else "="
        values = " | ".join(map(str, self.values))
        return f"{self.column} {operator} {values}"


@dataclass(frozen=True)
class Between:
    """A number lies in a range; an empty cell lies in none.

    Attributes:
        column: a column of numbers.
        least: lower bound, inclusive; None: no bound.
        most: upper bound, inclusive; None: no bound.
        deny: items that meet the condition are left out, instead of all others.
    """

    column: str
    least: float | None = None
    most: float | None = None
    deny: bool = False

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.least, self.most) if bound is not None]
        if not bounds or not all(map(_is_bound, bounds)):
            raise UserError(
                f"filter on {self.column!r}: a range needs numbers for `least`, `most` or both"
            )

    def __str__(self) -> str:
        text = self.column
        if self.least is not None:
            text = f"{self.least:g} <= {text}"
        if self.most is not None:
            text = f"{text} <= {self.most:g}"
        return f"not {text}" if self.deny else text


Condition = OneOf | Between
# All conditions must hold; as a set, so that their order does not matter.
Filter = frozenset[Condition]


def parse_condition(text: str) -> Condition:
    """Read a condition: `brand=Acme|Bosch`, `categories!=Tools`, `price<=20`, `price>=5`.

    Raises:
        UserError: it has another form.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UserError(
            f"filter {text!r}: expected COLUMN=VALUE|VALUE, COLUMN!=VALUE, COLUMN<=NUMBER "
            "or COLUMN>=NUMBER"
        )
    column, operator, value = match.groups()
    if operator in ("=", "!="):
        values = tuple(alternative.strip() for alternative in value.split("|"))
        return OneOf(column, values, deny=operator == "!=")
    try:
        bound = float(value)
    except ValueError:
        raise UserError(f"filter {text!r}: {value!r} is not a number") from None
    if operator == "<=":
        return Between(column, most=bound)
    return Between(column, least=bound)


class Columns:
    """The columns of the catalogue, each prepared when a filter first needs it.

    Args:
        items: the catalogue, with a column `item_id`.
        item_ids: the items in the order of the index.
    """

    def __init__(
        self,
        items: pd.DataFrame,
        item_ids: list[str],
    ) -> None:
        self._items = items.set_index(ITEM_ID, drop=False).loc[item_ids]
        self._columns: dict[str, _TextColumn | _NumberColumn] = {}

    def passing(self, filter: Filter) -> np.ndarray:
        """Return which items pass, bool [items].

        Raises:
            UserError: a column is unknown, a value or range does not fit its type, or an item id is
                not in the index.
        """
        passes = np.ones(len(self._items), dtype=bool)
        for condition in filter:
            matches = self._column(condition.column).matches(condition)
            passes &= ~matches if condition.deny else matches
        return passes

    def _column(self, name: str) -> "_TextColumn | _NumberColumn":
        if name not in self._items.columns:
            names = ", ".join(map(str, self._items.columns))
            raise UserError(f"filter on {name!r}: the catalogue has no such column; it has {names}")
        if name not in self._columns:
            cells = self._items[name]
            is_bool = pd.api.types.is_bool_dtype(cells)
            if is_bool or pd.api.types.is_numeric_dtype(cells):
                self._columns[name] = _NumberColumn(name, cells)
            else:
                self._columns[name] = _TextColumn(name, cells)
        return self._columns[name]


class _NumberColumn:
    """A column of numbers, or of true and false."""

    def __init__(self, name: str, cells: pd.Series) -> None:
        self.name = name
        self.is_bool = bool(pd.api.types.is_bool_dtype(cells))
        self.cells = cells.to_numpy(dtype=np.float64, na_value=np.nan)

    def matches(self, condition: Condition) -> np.ndarray:
        """Return which items meet a condition, bool [items]."""
        if isinstance(condition, OneOf):
            matches = np.zeros(len(self.cells), dtype=bool)
            for value in condition.values:
                matches |= self.cells == self._number(value)
            return matches
        if self.is_bool:
            raise UserError(
                f"filter on {self.name!r}: the column holds true and false; it has no ranges"
            )
        matches = ~np.isnan(self.cells)
        if condition.least is not None:
            matches &= self.cells >= condition.least
        if condition.most is not None:
            matches &= self.cells <= condition.most
        return matches

    def _number(self, value: Value) -> float:
        """Return a value as the column's cells are."""
        if self.is_bool:
            truth = _TRUTH.get(str(value).lower())
            if truth is None:
                raise UserError(f"filter on {self.name!r}: {value!r} is neither true nor false")
            return truth
        try:
            if not isinstance(value, bool):
                return float(value)
        except ValueError:
            pass
        raise UserError(
            f"filter on {self.name!r}: {value!r} is not a number, as the column's cells are"
        )


class _TextColumn:
    """A column of texts or lists of texts; item ids are checked, other values may be unknown."""

    def __init__(self, name: str, cells: pd.Series) -> None:
        self.name = name
        self._cells = cells.where(cells.notna(), "")

    def matches(self, condition: Condition) -> np.ndarray:
        """Return which items meet a condition, bool [items]."""
        values = self._check(condition)
        codes, rows, _ = self._coded
        is_wanted = np.zeros(len(self._code_of), dtype=bool)
        for value in values:
            if value in self._code_of:
                is_wanted[self._code_of[value]] = True
        matches = is_wanted[codes]
        if rows is None:
            return matches
        item_matches = np.zeros(len(self._cells), dtype=bool)
        item_matches[rows[matches]] = True
        return item_matches

    def _check(self, condition: Condition) -> list[str]:
        """Return the values of a condition. Raises UserError where they do not fit."""
        if isinstance(condition, Between):
            raise UserError(
                f"filter on {self.name!r}: the column holds text; a range needs numbers"
            )
        values = []
        for value in condition.values:
            if not isinstance(value, str):
                raise UserError(
                    f"filter on {self.name!r}: {value!r} is not text, as the column's cells are"
                )
            values.append(value)
        if self.name == ITEM_ID:
            unknown = [value for value in values if value not in self._code_of]
            if unknown:
                raise UserError(f"filter on {ITEM_ID!r}: not in the index: {', '.join(unknown)}")
        return values

    @cached_property
    def _code_of(self) -> dict[str, int]:
        _, _, labels = self._coded
        return {label: code for code, label in enumerate(labels)}

    @cached_property
    def _coded(self) -> tuple[np.ndarray, np.ndarray | None, Any]:
        """A code a label, the item row of each label (None: one a row, in order), the labels."""
        if self.name not in LISTS:
            codes, labels = pd.factorize(self._cells)
            return codes, None, labels
        lists = [cell.split(",") for cell in self._cells]
        lengths = [len(labels) for labels in lists]
        rows = np.repeat(np.arange(len(lists)), lengths)
        stripped = [label.strip() for label in chain.from_iterable(lists)]
        codes, labels = pd.factorize(np.array(stripped, dtype=object))
        return codes, rows, labels


def _is_bound(value: Any) -> bool:
    """Return whether a value is a number that cells can be compared with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not math.isnan(value)


def _sort_key(value: Value) -> tuple[str, Value]:
    """Values of one type stand together: those of several have no order."""
    return type(value).__name__, value
