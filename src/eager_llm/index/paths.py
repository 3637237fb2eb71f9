"""Paths: how levels and tokens are called, and one number for each path."""

from collections.abc import Iterable
from functools import cache

import numpy as np

# Keys are int64: a key beyond this could overflow with the next level.
MAX_KEY = 2**62


@cache
def level_letters(level: int) -> str:
    """Name a level: a, b, ..., z, aa, ab, ..."""
    name = ""
    number = level + 1
    while number:
        number, digit = divmod(number - 1, 26)
        name = chr(ord("a") + digit) + name
    return name


def token(level: int, label: int) -> str:
    """Return the token of a label of a level, such as `<a_17>`."""
    return f"<{level_letters(level)}_{label}>"


def path_tokens(labels: Iterable[int]) -> list[str]:
    """Return the tokens of the labels of a path, from the first level on."""
    return [token(level, label) for level, label in enumerate(labels)]


def path_keys(codes: np.ndarray, branching: int) -> np.ndarray:
    """Return a number for each path, int64 [items]; equal paths have equal numbers.

    Args:
        codes: int [items, levels].
        branching: labels of a level.
    """
    keys = np.zeros(len(codes), dtype=np.int64)
    for level in range(codes.shape[1]):
        if keys.max(initial=0) > MAX_KEY // branching:  # too deep: ranks take the keys' place
            keys = np.unique(keys, return_inverse=True)[1]
        keys = keys * branching + codes[:, level]
    return keys
