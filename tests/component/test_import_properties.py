"""Properties of importing, over random logs with ties: twice is once, two halves are the whole."""

import tempfile
from pathlib import Path

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eager_llm.data.tables import Tables
from eager_llm.settings import Settings
from eager_llm.steps.ingest_data import ingest

# Few users, items and moments: repeats and ties are the rule.
ROWS = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(1, 4)),
    min_size=2,
    max_size=30,
)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def bring(base, name, rows, k, append=False):
    folder = Path(base) / name
    folder.mkdir(exist_ok=True)
    text = "".join(f"{user},{item},{second}\n" for user, item, second in rows)
    (folder / "events.csv").write_text("user_id,item_id,timestamp\n" + text)
    wishes = sorted({(user, item) for user, item, _ in rows})
    text = "".join(f"{user},{item},wants {item},likes {user}\n" for user, item in wishes)
    (folder / "intentions.csv").write_text("user_id,item_id,intention,preference\n" + text)
    ingest(
        str(folder),
        Settings.read(None, [f"data.min_interactions={k}"]),
        Path(base) / "tables",
        append=append,
    )
    return Tables.load(Path(base) / "tables")


def same(first, second):
    pd.testing.assert_frame_equal(first.events, second.events)
    pd.testing.assert_frame_equal(first.items, second.items)
    pd.testing.assert_frame_equal(first.intentions, second.intentions)


@FEW
@given(ROWS)
def test_importing_twice_changes_nothing(rows):
    with tempfile.TemporaryDirectory() as base:
        once = bring(base, "log", rows, 1)
        again = bring(base, "log", rows, 1, append=True)
        same(once, again)


@FEW
@given(ROWS, st.data())
def test_two_halves_are_the_whole(rows, data):
    """The core of the first half is another than the whole's: what it put into quarantine comes back."""
    cut = data.draw(st.integers(1, len(rows) - 1))
    # An anchor of two items by two users keeps a 2-core in either half.
    anchor = [(user, item, 9) for user in ("x", "y") for item in ("p", "q")]
    with tempfile.TemporaryDirectory() as base:
        bring(base, "first", anchor + rows[:cut], 2)
        halves = bring(base, "second", rows[cut:], 2, append=True)
    with tempfile.TemporaryDirectory() as base:
        same(halves, bring(base, "whole", anchor + rows, 2))


@FEW
@given(ROWS)
def test_cleaning_equals_the_obvious_reconstruction(rows):
    """Duplicates out, the iterated 2-core, and a strict order that keeps every earlier moment earlier."""
    anchor = [(user, item, 9) for user in ("x", "y") for item in ("p", "q")]
    kept = sorted(set(anchor + rows))
    while True:
        users, items = [row[0] for row in kept], [row[1] for row in kept]
        core = [row for row in kept if users.count(row[0]) >= 2 and items.count(row[1]) >= 2]
        if core == kept:
            break
        kept = core
    with tempfile.TemporaryDirectory() as base:
        events = bring(base, "log", anchor + rows, 2).events
    recorded = (
        events["recorded_at"].fillna(events["timestamp"])
        if "recorded_at" in events
        else events["timestamp"]
    )
    found = zip(events["user_id"], events["item_id"], recorded, strict=True)
    assert sorted((user, item, int(moment.timestamp())) for user, item, moment in found) == kept
    for _, own in events.assign(recorded=recorded).groupby("user_id"):
        assert own["timestamp"].is_monotonic_increasing
        assert own["timestamp"].is_unique
        assert own["recorded"].is_monotonic_increasing


def test_an_intention_that_was_dropped_with_its_event_comes_back(tmp_path):
    anchor = [(user, item, 9) for user in ("x", "y") for item in ("p", "q")]
    first, second = [("u", "a", 1)], [("u", "b", 2), ("v", "a", 3), ("v", "b", 4)]
    (tmp_path / "halves").mkdir()
    (tmp_path / "whole").mkdir()
    assert "u" not in set(
        bring(tmp_path / "halves", "first", anchor + first, 2).intentions["user_id"]
    )
    halves = bring(tmp_path / "halves", "second", second, 2, append=True)
    assert ("u", "a") in set(
        zip(halves.intentions["user_id"], halves.intentions["item_id"], strict=True)
    )
    same(halves, bring(tmp_path / "whole", "log", anchor + first + second, 2))
