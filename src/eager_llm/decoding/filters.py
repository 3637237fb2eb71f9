"""The filter language: conditions on catalogue columns, and which items meet them."""

import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.core.short_text import shortened, some_values
from eager_llm.decoding.columns import Column, TextColumn, Value, column_of, parse_number

ITEM_ID = "item_id"
# Characters of a list of the catalogue's columns in a message.
LONGEST_LIST = 1000
# What the items that pass the latest filters may take.
REMEMBERED_BYTES = 32 << 20
# Of a remembered filter, beside its items: the key, the objects, the place in the table.
ENTRY_BYTES = 512
_CONDITION = re.compile(r"\s*([^=!<>]*[^=!<>\s])\s*(!=|<=|>=|=)\s*(.*\S)\s*")


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
        # With their types: True is not 1.
        distinct = {(type(value).__name__, value) for value in self.values}
        ordered = [value for _, value in sorted(distinct)]
        object.__setattr__(self, "values", tuple(ordered))

    def __str__(self) -> str:
        operator = "!=" if self.deny else "="
        return f"{shortened(self.column)} {operator} {some_values(self.values, ' | ')}"


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
    least: int | float | None = None
    most: int | float | None = None
    deny: bool = False

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.least, self.most) if bound is not None]
        if not bounds or not all(map(_is_bound, bounds)):
            raise UserError(
                f"filter on {self.column!r}: a range needs numbers for `least`, `most` or both"
            )

    def __str__(self) -> str:
        text = shortened(self.column)
        if self.least is not None:
            text = f"{_number_text(self.least)} <= {text}"
        if self.most is not None:
            text = f"{text} <= {_number_text(self.most)}"
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
    bound = parse_number(value)
    if bound is None:
        raise UserError(f"filter {text!r}: {value!r} is not a number")
    if operator == "<=":
        return Between(column, most=bound)
    return Between(column, least=bound)


class Columns:
    """The columns of the catalogue, each prepared when a filter first needs it.

    Args:
        items: the catalogue, with a column `item_id`.
        item_ids: the items in the order of the index.
        max_bytes: what the items of the latest filters may take, which are remembered.
    """

    def __init__(
        self,
        items: pd.DataFrame,
        item_ids: list[str],
        max_bytes: int = REMEMBERED_BYTES,
    ) -> None:
        self._items = items.set_index(ITEM_ID, drop=False).loc[item_ids]
        self._columns: dict[str, Column] = {}
        self._capacity = max(1, max_bytes // (len(item_ids) + ENTRY_BYTES))
        self._remembered: OrderedDict[bytes, np.ndarray] = OrderedDict()
        # Threads that answer share the columns.
        self._lock = Lock()

    def prepare(self) -> None:
        """Prepare every column, so that no request waits for one."""
        for name in self._items.columns:
            self._column(str(name))

    def remembers(self, filter: Filter) -> bool:
        """Return whether the items that pass a filter are known without any work."""
        return filter_digest(filter) in self._remembered

    def passing(self, filter: Filter) -> np.ndarray:
        """Return which items pass, bool [items].

        An item id that the index does not have may be denied: the item cannot come anyway.

        Raises:
            UserError: a column is unknown, a value or range does not fit its type, or an item id
                that alone may come is not in the index.
        """
        key = filter_digest(filter)
        with self._lock:
            known = self._remembered.get(key)
            if known is not None:
                self._remembered.move_to_end(key)
                return known.copy()
        passes = np.ones(len(self._items), dtype=bool)
        for condition in filter:
            matches = self._matches(condition)
            passes &= ~matches if condition.deny else matches
        with self._lock:
            self._remembered[key] = passes.copy()
            if len(self._remembered) > self._capacity:
                self._remembered.popitem(last=False)
        return passes

    def _matches(self, condition: Condition) -> np.ndarray:
        """Return which items meet a condition, bool [items]."""
        column = self._column(condition.column)
        if isinstance(condition, Between):
            return column.between(condition.least, condition.most)
        matches = column.one_of(condition.values)
        if condition.column == ITEM_ID and not condition.deny and isinstance(column, TextColumn):
            unknown = column.unknown(condition.values)
            if unknown:
                raise UserError(f"filter on {ITEM_ID!r}: not in the index: {some_values(unknown)}")
        return matches

    def _column(self, name: str) -> Column:
        if name not in self._items.columns:
            names = shortened(", ".join(map(str, self._items.columns)), LONGEST_LIST)
            raise UserError(
                f"filter on {shortened(name)!r}: the catalogue has no such column; it has {names}"
            )
        if name not in self._columns:
            self._columns[name] = column_of(name, self._items[name])
        return self._columns[name]


def filter_digest(filter: Filter) -> bytes:
    """Return 16 bytes that name a filter, whatever the order and the size of its conditions."""
    digest = blake2b(digest_size=16)
    for text in sorted(map(repr, filter)):
        digest.update(text.encode())
        digest.update(b"\0")
    return digest.digest()


def _is_bound(value: Any) -> bool:
    """Return whether a value is a number that cells can be compared with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not (isinstance(value, float) and math.isnan(value))


def _number_text(number: int | float) -> str:
    """Write a number, a long one shortened."""
    if isinstance(number, int):
        return shortened(str(number))
    return f"{number:g}"
