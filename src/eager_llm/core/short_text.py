"""Texts from outside, shortened: no message and no line of a log grows with what was sent."""

from collections.abc import Iterable
from typing import Any

LONGEST = 80
VALUES_NAMED = 5


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return a text, or its beginning and an ellipsis where it is longer."""
    return text if len(text) <= longest else f"{text[:longest]}…"


def some_values(values: Iterable[Any], separator: str = ", ") -> str:
    """Write the first few of some values, each shortened, and how many more there are."""
    every = list(values)
    written = [shortened(str(value)) for value in every[:VALUES_NAMED]]
    text = separator.join(written)
    rest = len(every) - len(written)
    return f"{text} and {rest} more" if rest else text
