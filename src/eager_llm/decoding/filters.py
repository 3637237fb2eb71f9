"""The filter language: conditions on catalogue columns, checked, and turned into "these items pass"."""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError

Value = str | float | bool
ITEM_ID = "item_id"
# Columns whose cells are lists joined by commas: a cell equals each of its labels.
LISTS = ("categories",)
_CONDITION = re.compile(r"\s*([^=!<>]*[^=!<>\s])\s*(!=|<=|>=|=)\s*(.*\S)\s*")


@dataclass(frozen=True)
class OneOf:
    """A cell is one of some values; of `categories`, one of the cell's labels is.

    Attributes:
        column: a column of the catalogue.
        values: in any order; texts are compared as they are written.
        deny: items that meet the condition are left out, instead of only these kept.
    """

    column: str
    values: tuple[Value, ...]
    deny: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.values, str) or not self.values:
            raise UserError(f"filter on {self.column!r}: name at least one value, in a list")
        ordered = sorted(set(self.values), key=lambda value: (type(value).__name__, value))
        object.__setattr__(self, "values", tuple(ordered))

    def __str__(self) -> str:
        return f"{self.column} {'!=' if self.deny else '='} {' | '.join(map(str, self.values))}"


@dataclass(frozen=True)
class Between:
    """A number lies in a range; an empty cell lies in none.

    Attributes:
        column: a column of numbers.
        least: lower bound, inclusive; None: no bound.
        most: upper bound, inclusive; None: no bound.
        deny: items that meet the condition are left out, instead of only these kept.
    """

    column: str
    least: float | None = None
    most: float | None = None
    deny: bool = False

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.least, self.most) if bound is not None]
        if not bounds or any(
            isinstance(b, bool) or not isinstance(b, (int, float)) or math.isnan(b) for b in bounds
        ):
            raise UserError(
                f"filter on {self.column!r}: a range needs numbers for `least`, `most` or both"
            )

    def __str__(self) -> str:
        least = "" if self.least is None else f"{self.least:g} <= "
        most = "" if self.most is None else f" <= {self.most:g}"
        return f"{'not ' if self.deny else ''}{least}{self.column}{most}"


Condition = OneOf | Between
# All conditions must hold; as a set, so that their order does not matter.
Filter = frozenset[Condition]


def parse_condition(text: str) -> Condition:
    """Read a condition: `brand=Acme|Bosch`, `categories!=Tools`, `price<=20`, `price>=5`.

    Raises:
        UserError: it has another form.
    """
    read = _CONDITION.fullmatch(text)
    if read is None:
        raise UserError(
            f"filter {text!r}: expected COLUMN=VALUE|VALUE, COLUMN!=VALUE, COLUMN<=NUMBER or COLUMN>=NUMBER"
        )
    column, operator, value = read.groups()
    if operator in ("=", "!="):
        return OneOf(
            column, tuple(part.strip() for part in value.split("|")), deny=operator == "!="
        )
    try:
        bound = float(value)
    except ValueError:
        raise UserError(f"filter {text!r}: {value!r} is not a number") from None
    return Between(column, most=bound) if operator == "<=" else Between(column, least=bound)


class Columns:
    """The catalogue, made ready to be filtered; a column is read when it is first asked for.

    Args:
        items: the catalogue, with a column `item_id`.
        item_ids: the items in the order of the index.
    """

    def __init__(self, items: pd.DataFrame, item_ids: list[str]) -> None:
        self._items = items.set_index(ITEM_ID, drop=False).loc[item_ids]
        self._read: dict[str, _Texts | _Numbers] = {}

    def passing(self, filter: Filter) -> np.ndarray:
        """Return which items pass, bool [items].

        Raises:
            UserError: a column is unknown, a value or range does not fit its type, or an item id is
                not in the index.
        """
        passes = np.ones(len(self._items), dtype=bool)
        for condition in filter:
            met = self._column(condition.column).meet(condition)
            passes &= ~met if condition.deny else met
        return passes

    def _column(self, name: str) -> "_Texts | _Numbers":
        if name not in self._items.columns:
            known = ", ".join(map(str, self._items.columns))
            raise UserError(f"filter on {name!r}: the catalogue has no such column; it has {known}")
        if name not in self._read:
            cells = self._items[name]
            numeric = pd.api.types.is_numeric_dtype(cells) or pd.api.types.is_bool_dtype(cells)
            self._read[name] = _Numbers(name, cells) if numeric else _Texts(name, cells)
        return self._read[name]


class _Numbers:
    """A column of numbers, or of true and false."""

    def __init__(self, name: str, cells: pd.Series) -> None:
        self.name = name
        self.is_bool = bool(pd.api.types.is_bool_dtype(cells))
        self.cells = cells.to_numpy(dtype=np.float64, na_value=np.nan)

    def meet(self, condition: Condition) -> np.ndarray:
        if isinstance(condition, OneOf):
            met = np.zeros(len(self.cells), dtype=bool)
            for value in condition.values:
                met |= self.cells == self._number(value)
            return met
        if self.is_bool:
            raise UserError(
                f"filter on {self.name!r}: the column holds true and false; it has no ranges"
            )
        least = -math.inf if condition.least is None else condition.least
        most = math.inf if condition.most is None else condition.most
        return (self.cells >= least) & (self.cells <= most)

    def _number(self, value: Value) -> float:
        if self.is_bool:
            truth = {"true": 1.0, "false": 0.0}.get(str(value).lower())
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


class _Texts:
    """A column of texts, or of lists of texts; item ids are checked, other values may be unknown."""

    def __init__(self, name: str, cells: pd.Series) -> None:
        self.name = name
        self._cells = cells.where(cells.notna(), "")

    def meet(self, condition: Condition) -> np.ndarray:
        if isinstance(condition, Between):
            raise UserError(
                f"filter on {self.name!r}: the column holds text; a range needs numbers"
            )
        for value in condition.values:
            if not isinstance(value, str):
                raise UserError(
                    f"filter on {self.name!r}: {value!r} is not text, as the column's cells are"
                )
        if self.name == ITEM_ID:
            unknown = [str(value) for value in condition.values if value not in self._codes]
            if unknown:
                raise UserError(f"filter on {ITEM_ID!r}: not in the index: {', '.join(unknown)}")
        codes, rows, _ = self._coded
        wanted = np.zeros(len(self._codes), dtype=bool)
        wanted[[self._codes[str(value)] for value in condition.values if value in self._codes]] = (
            True
        )
        met = wanted[codes]
        if rows is None:
            return met
        passes = np.zeros(len(self._cells), dtype=bool)
        passes[rows[met]] = True
        return passes

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {value: code for code, value in enumerate(self._coded[2])}

    @cached_property
    def _coded(self) -> tuple[np.ndarray, np.ndarray | None, Any]:
        """Return a code a label, the item row of each label (None: one a row, in order), and the labels."""
        if self.name not in LISTS:
            codes, labels = pd.factorize(self._cells)
            return codes, None, labels
        lists = [[label.strip() for label in cell.split(",")] for cell in self._cells]
        rows = np.repeat(np.arange(len(lists)), [len(labels) for labels in lists])
        codes, labels = pd.factorize(
            np.array([label for labels in lists for label in labels], dtype=object)
        )
        return codes, rows, labels
