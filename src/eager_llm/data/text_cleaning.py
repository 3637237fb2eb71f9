"""Text as shops keep it, as one plain line: markup, entities, control characters and lists out."""

import html
import json
import re
from typing import Any

LONGEST = 65_536
TAG = re.compile(
    r"<(?:script|style)\b.*?</(?:script|style)\s*>|<!--.*?-->|</?[a-zA-Z][^<>]{0,2000}>",
    re.DOTALL | re.I,
)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\ufeff]")


def clean_text(value: Any, markup: bool = True) -> str:
    """Return a cell as one line; lists, or JSON lists of text, are joined by commas.

    Args:
        markup: take HTML tags out and resolve its entities.
    """
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ",".join(filter(None, (clean_text(part, markup) for part in value)))
    text = str(value)
    if text.startswith("[") and text.endswith("]") and len(text) <= LONGEST:
        try:
            parts = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            parts = None
        if isinstance(parts, list) and all(isinstance(part, (str, int, float)) for part in parts):
            return clean_text(parts, markup)
    text = text[:LONGEST]
    if markup and ("<" in text or "&" in text):
        # Twice, for entities that hid tags; shops' exports are often escaped once too often.
        text = TAG.sub(" ", html.unescape(html.unescape(TAG.sub(" ", text))))
    return " ".join(CONTROL.sub(" ", text).split())
