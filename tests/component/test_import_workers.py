"""What workers import is what one process imports, to the row; a lost worker costs time, not rows."""

import gzip
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from conftest import write_csv
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st

from eager_llm.cluster.local_ray import ray_running
from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json
from eager_llm.data.demo_shop import demo_shop
from eager_llm.data.importing.on_ray import Workers, run_on_ray
from eager_llm.settings import Settings
from eager_llm.steps import ingest_data as steps

RULES = [
    "data.max_daily_events=3", "data.session_gap_minutes=0.05", "data.merge_items_by=title", "data.event_types=view=1,buy=3",
    "data.bad_rows=1",
]  # fmt: skip


def in_turn(label, function, calls):
    """Workers that are this process: what they do is the same, without starting Ray for every log."""
    return [function(*call) for call in calls]


@contextmanager
def here(settings, out):
    if settings.workers == 0:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Workers(Path(folder), settings, in_turn)


def bring(source, out, *settings, append=False):
    steps.ingest(str(source), Settings.read(None, list(settings)), out, append=append)
    return out


def same(one, other):
    """Every table and fact of two imports is equal, in the order of the rows."""
    files = sorted(path.relative_to(one) for path in one.rglob("*.parquet"))
    assert files == sorted(path.relative_to(other) for path in other.rglob("*.parquet"))
    for file in files:
        pd.testing.assert_frame_equal(pd.read_parquet(one / file), pd.read_parquet(other / file))
    assert read_json(one / "metadata.json") == read_json(other / "metadata.json")
    return files


def in_files(events, folder, files):
    """Write the rows of a log into so many files, in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        events.iloc[number::files].to_csv(folder / f"events-{number}.csv", index=False)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["u", "v", "ü", "🙂", "user"]), st.sampled_from("abcd"),
        st.sampled_from(["1", "2", "90000", "90001", "never"]), st.sampled_from(["view", "buy", "other", ""]),
    ),
    min_size=4, max_size=40,
)  # fmt: skip


@trials(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(ROWS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_shares_of_a_random_log_are_the_whole(rows, files, workers, k, catalogue):
    """With ties, broken rows, merged items, orphans, bots, sessions and a core that needs rounds."""
    anchor = [(user, item, "9", "view") for user in ("x", "y") for item in ("a", "b", "p")]
    events = pd.DataFrame(anchor + rows, columns=["user_id", "item_id", "timestamp", "event_type"])
    with tempfile.TemporaryDirectory() as base, pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "import_workers", here)
        folder = Path(base) / "log"
        in_files(events, folder, files)
        if catalogue:
            (folder / "items.csv").write_text("item_id,title\na,One\nb,Two\nc,one\n")
        (folder / "intentions.csv").write_text(
            "user_id,item_id,intention,preference\nu,a,w,l\nx,a,w,l\nx,c,w,l\n"
        )
        rules = [*RULES, f"data.min_interactions={min(k, 2)}"]
        one = bring(folder, Path(base) / "one", *rules)
        many = bring(folder, Path(base) / "many", *rules, f"data.workers={workers}")
        same(one, many)
        # What was imported is added to in the same way.
        bring(folder, one, *rules, append=True)
        bring(folder, many, *rules, f"data.workers={workers}", append=True)
        same(one, many)


@pytest.fixture(scope="module")
def on_this_machine():
    with ray_running(2):
        yield


@pytest.fixture
def log(tmp_path):
    """The demo's log in three files, as another process would leave it."""
    folder = write_csv(demo_shop(seed=0, users=200), tmp_path / "log")
    events = pd.read_csv(folder / "events.csv", dtype=str)
    (folder / "events.csv").unlink()
    in_files(events, folder, 3)
    return folder


def test_the_demo_by_ray_is_the_demo_by_one_process(log, tmp_path, on_this_machine):
    one = bring(log, tmp_path / "one")
    many = bring(
        log, tmp_path / "many", "data.workers=2", f"data.shared_folder={tmp_path / 'shared'}"
    )
    assert Path("events.parquet") in same(one, many)
    assert not list((tmp_path / "shared").iterdir())


def test_a_broken_file_is_told_as_by_one_process_and_nothing_is_written(
    log, tmp_path, on_this_machine
):
    whole = (log / "events-1.csv").read_text()
    (log / "events-1.csv").write_text(whole.replace("20", "x", 1))

    def refused(*settings):
        with pytest.raises(UserError) as error:
            bring(log, tmp_path / "out", *settings)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]
        return str(error.value)

    assert "events-1.csv: row 1: timestamp" in refused("data.workers=2")
    assert refused("data.workers=2") == refused()
    (log / "events-1.csv").unlink()
    (log / "events-1.csv.gz").write_bytes(gzip.compress(whole.encode())[:-20])
    assert "events-1.csv.gz: the compressed data is cut off" in refused("data.workers=2")


def test_a_lost_worker_is_replaced_until_it_is_lost_over_and_over(tmp_path, on_this_machine):
    def die_once(mark, answer):
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return answer

    def die(answer):
        os._exit(1)

    def misbehave(answer):
        raise KeyError(answer)

    (tmp_path / "mark-1").touch()
    assert run_on_ray("counting", die_once, [(tmp_path / f"mark-{n}", n) for n in range(2)]) == [
        0,
        1,
    ]
    with pytest.raises(
        UserError,
        match="counting: a Ray worker was lost 4 times at task 1 of 1, and nothing was written",
    ):
        run_on_ray("counting", die, [(0,)])
    with pytest.raises(KeyError, match="seven"):
        run_on_ray("counting", misbehave, [("seven",)])
