"""The page at /ui, in a real browser, by keyboard."""

import json
import os
import shutil

import pytest
from browser import chromium
from conftest import user_of

from eager_llm.bundle.bundle import Bundle

if shutil.which("chromium") is None:
    pytest.skip("no chromium on the PATH: the page is not tested here", allow_module_level=True)

READY = "document.querySelectorAll('.item').length > 0"
TITLES = "[...document.querySelectorAll('.column:first-child .title')].map(e => e.firstChild.textContent)"


@pytest.fixture
def page(service, tmp_path):
    with chromium(tmp_path / "browser") as page:
        page.open(f"{service.base_url}/ui")
        page.wait(READY)
        yield page
        assert page.complaints == []


def test_a_history_is_built_by_keyboard_and_answered_as_the_api_answers(
    page, service, run, tmp_path
):
    bundle = Bundle.load(run.folder / "bundle")
    titles = [bundle.title(item) for item in bundle.recommender.index.item_ids[:2]]
    for count, title in enumerate(titles, start=1):
        page.value("document.getElementById('find').focus()")
        page.type(title)
        page.wait("document.getElementById('find').getAttribute('aria-expanded') === 'true'")
        page.wait(f"document.getElementById('suggestion-0').textContent === {title!r}")
        page.press("Enter")
        page.wait(f"document.querySelectorAll('#history li').length === {count}")
    page.wait("document.querySelector('.badge')?.textContent === 'model'")
    page.wait("document.getElementById('status').textContent.includes('8 items')")
    items = bundle.recommender.index.item_ids[:2]
    expected = service.post(
        "/recommend", json={"items": items, "k": 8, "exclude_history": True}
    ).json()["items"]
    # An earlier answer may stand there for a moment.
    page.wait(
        f"JSON.stringify({TITLES}) === JSON.stringify({json.dumps([row['title'] for row in expected])})"
    )
    scores = page.value(
        "[...document.querySelectorAll('.column:first-child .score')].map(e => e.textContent)"
    )
    assert [float(text.removeprefix("score ")) for text in scores] == pytest.approx(
        [row["score"] for row in expected], abs=0.006
    )
    # A score with an item prior is no probability, so the page shows no share in per cent.
    assert "%" not in page.value("document.getElementById('columns').textContent")
    # Why: the tokens of the first item with their shares of the score, and its neighbours in the history.
    assert page.value("document.querySelector('details').open")
    tokens = page.value(
        "[...document.querySelector('.why').querySelectorAll('code')].map(e => e.textContent)"
    )
    assert tokens == bundle.recommender.index.tokens(expected[0]["item_id"])
    shares = page.value(
        "[...document.querySelector('.why').querySelectorAll('.number')].map(e => e.textContent)"
    )
    assert sum(map(float, shares)) == pytest.approx(expected[0]["score"], abs=0.03)
    assert (
        page.value("document.querySelectorAll('.why')[0].querySelectorAll('.near li').length") == 2
    )
    assert page.value("document.querySelectorAll('.column').length") == 2
    assert (
        page.value("document.querySelectorAll('.comparison').length") == 0
    )  # the two bundles are one
    folder = os.environ.get("EAGER_LLM_SCREENSHOTS", str(tmp_path))
    page.picture(f"{folder}/page.png")


def test_filters_words_and_a_user(page, service, run, tmp_path):
    page.value("document.querySelector('input[value=user]').click()")
    page.value("document.getElementById('user').focus()")
    page.type(user_of(run))
    page.press("Enter")
    page.wait("document.querySelector('.badge')?.textContent === 'model'")
    page.value(
        "const most = document.querySelector('[data-column=price][data-bound=most]'); most.value = '20';"
        "most.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    asked = {
        "user_id": user_of(run),
        "k": 8,
        "exclude_history": True,
        "filters": [{"column": "price", "most": 20}],
    }
    expected = [row["title"] for row in service.post("/recommend", json=asked).json()["items"]]
    page.wait(f"JSON.stringify({TITLES}) === JSON.stringify({expected!r})")
    page.value("document.getElementById('words').focus()")
    page.type("a trowel")
    page.press("Enter")
    found = service.post("/search", json={**asked, "words": "a trowel"}).json()["items"]
    page.wait(f"JSON.stringify({TITLES}) === JSON.stringify({[row['title'] for row in found]!r})")
    page.open(f"{service.base_url}/ui", width=400, height=900)
    page.wait(READY)
    assert page.value(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )


def test_every_field_has_a_name_and_none_is_out_of_reach(page):
    unnamed = page.value(
        "[...document.querySelectorAll('input, select, button')].filter(e => e.offsetParent && !e.labels?.length "
        "&& !e.getAttribute('aria-label') && !e.textContent.trim()).map(e => e.outerHTML)"
    )
    assert unnamed == []
    page.value("document.body.focus()")
    seen = set()
    for _ in range(60):
        page.press("Tab")
        seen.add(
            page.value(
                "document.activeElement.id || document.activeElement.className || document.activeElement.type"
            )
        )
    assert {"find", "words", "exclude", "k", "submit"} <= seen | {
        page.value("document.activeElement.type")
    }
