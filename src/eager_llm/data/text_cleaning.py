"""Text as shops keep it, as one plain line: markup, entities, control characters and lists out."""

import html
import json
import re
from typing import Any

# Characters of a text that are read; the others are cut off.
LONGEST = 65_536
TAG = re.compile(
    r"<(?:script|style)\b.*?</(?:script|style)\s*>|<!--.*?-->|</?[a-zA-Z][^<>]{0,2000}>",
    re.DOTALL | re.IGNORECASE,
)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\ufeff]")


def clean_text(value: Any, markup: bool = True) -> str:
    """Return a cell as one line; lists, or JSON lists of text, are joined by commas.

    Args:
        value: the cell.
        markup: take HTML tags out and resolve its entities.
    """
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return _join(value, markup)
    text = str(value)
    if text.startswith("["):
        values = _json_list(text)
        if values is not None:
            return _join(values, markup)
    text = text[:LONGEST]
    if markup and ("<" in text or "&" in text):
        # Twice, for entities that hid tags; shops' exports are often escaped once too often.
        without_tags = TAG.sub(" ", text)
        unescaped = html.unescape(html.unescape(without_tags))
        text = TAG.sub(" ", unescaped)
    return " ".join(CONTROL.sub(" ", text).split())


def _join(values: list[Any] | tuple[Any, ...], markup: bool) -> str:
    """Return the values as one line, joined by commas; empty ones are left out."""
    texts = [clean_text(value, markup) for value in values]
    return ",".join(filter(None, texts))


def _json_list(text: str) -> list[Any] | None:
    """Return the values of a JSON list of texts and numbers, or None where the text is none.

    Args:
        text: starts with a bracket.
    """
    if not text.endswith("]") or len(text) > LONGEST:
        return None
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(values, list):
        return None
    for value in values:
        if not isinstance(value, (str, int, float)):
            return None
    return values
