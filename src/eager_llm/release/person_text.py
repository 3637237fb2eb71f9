"""Users in texts: how an id may be spelt in a report, and how it is blanked."""

import csv
import html
import io
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

from markupsafe import escape

ERASED = "erased"
# Shorter ids are words or numbers that stand anywhere; that they are named says nothing.
SHORTEST_DISTINCT_ID = 6  # characters
# What stands before a user's id in what the system writes, and what ends the id.
IN_WORDS = r"(?:(?<=user_id=)|(?<=user_id = ))({ids})(?=[,;<\s&)\]]|$)"
IN_QUOTES = r"(?<=user ')({ids})(?=')|(?<=user &#39;)({ids})(?=&#39;)"
IN_JSON = r"(\"user_id\"\s*:\s*\")({ids})(?=\")"
IN_ESCAPED_JSON = r"(&#34;user_id&#34;\s*:\s*&#34;)({ids})(?=&#34;)"
# A report's section about one user, with the history below its heading.
SECTION = r"<h3>User ({ids})</h3>.*?(?=<h[1-6]|</html>|\Z)"
ERASED_SECTION = "<h3>A user who was erased</h3>\n"


def spellings(user: str) -> list[str]:
    """Return how an id stands in text, HTML, JSON, CSV and URLs; the longest first."""
    as_json = json.dumps(user)[1:-1]
    as_unicode_json = json.dumps(user, ensure_ascii=False)[1:-1]
    in_script = as_json
    for character in "<>&'":
        in_script = in_script.replace(character, f"\\u{ord(character):04x}")
    forms = {
        user,
        html.escape(user),
        html.escape(user, quote=False),
        str(escape(user)),
        as_json,
        as_unicode_json,
        in_script,
        user.replace('"', '""'),
        quote(user, errors="replace"),
        quote(user, safe="", errors="replace"),
    }
    # JSON inside HTML, as a page shows settings or rows.
    for form in (as_json, as_unicode_json):
        forms |= {str(escape(form)), html.escape(form)}
    return sorted(forms, key=len, reverse=True)


def blank_text(text: str, user: str) -> tuple[str, int]:
    """Blank a user in a text that the system wrote; return it and the number of places.

    A user stands there as `user_id=USER`, as `user 'USER'`, as a value of the JSON key `user_id`, or
    as the heading of a section, which goes as a whole.
    """
    ids = "|".join(map(re.escape, spellings(user)))
    text, sections = re.subn(SECTION.format(ids=ids), ERASED_SECTION, text, flags=re.DOTALL)
    count = sections
    for pattern in (IN_WORDS, IN_QUOTES):
        text, places = re.subn(pattern.format(ids=ids), ERASED, text)
        count += places
    for pattern in (IN_JSON, IN_ESCAPED_JSON):
        text, places = re.subn(pattern.format(ids=ids), rf"\g<1>{ERASED}", text)
        count += places
    return text, count


def without_rows(text: str, users: Iterable[str]) -> tuple[str, int] | None:
    """Return a delimited text without the users' rows, and how many there were.

    None where the text is no table with the column `user_id`.
    """
    header, _, _ = text.partition("\n")
    delimiter = "\t" if "\t" in header else ";" if ";" in header else ","
    rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    if not rows or "user_id" not in rows[0]:
        return None
    column = rows[0].index("user_id")
    erased = set(users)
    remaining = [row for row in rows if len(row) <= column or row[column] not in erased]
    output = io.StringIO()
    csv.writer(output, delimiter=delimiter, lineterminator="\n").writerows(remaining)
    return output.getvalue(), len(rows) - len(remaining)


def names_user(content: bytes, user: str, is_text: bool = True) -> bool:
    """Return whether bytes hold a distinct id in any of its spellings.

    Args:
        is_text: a longer id that holds this one is another user's. In other bytes nothing says where
            an id ends.
    """
    if len(user) < SHORTEST_DISTINCT_ID:
        return False
    forms = [form.encode("utf-8", errors="surrogatepass") for form in spellings(user)]
    if not any(form in content for form in forms):
        return False
    if not is_text:
        return True
    # The id alone, and not as a part of a longer one.
    ids = b"|".join(map(re.escape, forms))
    return re.search(rb"(?<![0-9A-Za-z])(" + ids + rb")(?![0-9A-Za-z])", content) is not None
