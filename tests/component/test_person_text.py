"""Users in texts: whatever an id looks like, what the system writes of it can be blanked."""

import csv
import html
import io
import json

import jinja2
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eager_llm.core.duckdb_engine import engine
from eager_llm.release.erasure import ErasureResult, _erase_from_parquet, _find_remains
from eager_llm.release.person_text import blank_text, names_user, without_rows

AWKWARD = [
    "jane@example.org",
    "O'Brien & <Sons>",
    'quote"quote',
    "back\\slash",
    "Zoë Ünïcode 名前",
    "two words, comma",
    "percent%20sign",
    "(paren).*[set]+",
    "tab\tand more",
]
ids = st.sampled_from(AWKWARD) | st.text(min_size=6, max_size=20).filter(
    lambda text: text.strip() == text and "\x00" not in text and text.isprintable()
)


def gate_page(user):
    template = "<td>user_id={{ user }}, item_id=a</td><p>user '{{ user }}' has no event</p>"
    return jinja2.Environment(autoescape=True).from_string(template).render(user=user)


def report_page(user):
    template = "<h2>R</h2><h3>User {{ user }}</h3>\n<p>Chose: a secret</p>\n<h3>User zz-other</h3>"
    return jinja2.Environment(autoescape=True).from_string(template).render(user=user)


@given(ids)
def test_an_id_is_blanked_wherever_the_system_writes_it(user):
    pages = [
        gate_page(user),
        json.dumps({"user_id": user, "n": 1}),
        json.dumps({"user_id": user}, ensure_ascii=False, separators=(",", ":")),
        html.escape(json.dumps({"user_id": user})).replace("&quot;", "&#34;"),
    ]
    for page in pages:
        blanked, count = blank_text(page, user)
        assert count >= 1, page
        assert not names_user(blanked.encode("utf-8", "surrogatepass"), user), page


@given(ids)
def test_a_section_about_a_user_goes_with_its_history(user):
    blanked, count = blank_text(report_page(user), user)
    assert count == 1
    assert "a secret" not in blanked
    assert "User zz-other" in blanked


def test_a_longer_id_is_another_user():
    page = "user_id=customer-0007, user_id=customer-00070"
    blanked, count = blank_text(page, "customer-0007")
    assert (blanked, count) == ("user_id=erased, user_id=customer-00070", 1)
    assert not names_user(blanked.encode(), "customer-0007")
    assert names_user(blanked.encode(), "customer-00070")


def test_words_that_are_an_id_elsewhere_stay():
    page = '{"optimizer": "adam", "user_id": "adam"}'
    assert blank_text(page, "adam") == ('{"optimizer": "adam", "user_id": "erased"}', 1)


@pytest.mark.parametrize("user", AWKWARD)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_loses_the_rows_of_a_user(user, delimiter):
    output = io.StringIO()
    writer = csv.writer(output, delimiter=delimiter)
    writer.writerows([["item_id", "user_id"], ["a", user], ["b", "zz-other"]])
    text, count = without_rows(output.getvalue(), [user])
    assert count == 1
    assert list(csv.reader(io.StringIO(text), delimiter=delimiter)) == [
        ["item_id", "user_id"],
        ["b", "zz-other"],
    ]


def test_a_text_that_is_no_table_of_users_is_left():
    assert without_rows("a,b\n1,2\n", ["1"]) is None
    assert without_rows("", ["1"]) is None


@pytest.mark.parametrize("user", AWKWARD)
def test_a_reason_that_quotes_a_row_is_blanked(user, tmp_path):
    file = tmp_path / "rows.parquet"
    reasons = [f"fewer columns than the header: {user},i5", f"not JSON: {json.dumps(user)}", "late"]
    pd.DataFrame({"file": "e.csv", "row": [1, 2, 3], "reason": reasons}).to_parquet(file)
    with engine() as connection:
        assert _erase_from_parquet(connection, file, [user]) == 2
    assert pd.read_parquet(file)["reason"].tolist() == ["erased", "erased", "late"]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("weights.npy", lambda file, user: file.write_bytes(b"\x93NUMPY" + user.encode())),
        ("notes", lambda file, user: file.write_text(f"seen: {user}")),
        (
            "items.parquet",
            lambda file, user: pd.DataFrame({"n": [[{"by": user}]]}).to_parquet(file),
        ),
    ],
    ids=["bytes", "text", "nested column"],
)
def test_what_is_left_of_a_user_is_said(tmp_path, name, write):
    user = "jane@example.org"
    file = tmp_path / name
    write(file, user)
    result = ErasureResult()
    _find_remains([user], [file], result)
    assert result.unreadable == {file: "still names an erased user"}
    clean = ErasureResult()
    _find_remains(["somebody@example.org"], [file], clean)
    assert clean.unreadable == {}
