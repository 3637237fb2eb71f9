"""A refresh by its command: what is wrong is said, and what was running still is."""

import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT

from eager_llm.core.errors import UserError
from eager_llm.core.files import content_digest
from eager_llm.data.demo_shop import demo_increments
from eager_llm.data.tables import Tables
from eager_llm.release.run_folder import RunFolder
from pipelines.runners.local_refresh import refresh_settings


def refresh(*words):
    command = [sys.executable, "-m", "eager_llm.cli.main", "refresh", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.fixture
def run_folder(run, tmp_path):
    for name in ("bundle", "tables", "features"):
        shutil.copytree(run.folder / name, tmp_path / "run" / name)
    return RunFolder(tmp_path / "run")


def test_a_refresh_that_fails_its_gates_names_the_rows_and_leaves_all_as_it_was(
    run_folder, tmp_path
):
    before = content_digest(run_folder.bundle), content_digest(run_folder.tables)
    known = Tables.load(run_folder.tables).events
    later = known["timestamp"].max() + pd.Timedelta(days=1)
    (tmp_path / "arrived").mkdir()
    rows = [
        (known["user_id"].iat[0], "ghost-item", later),
        (known["user_id"].iat[0], known["item_id"].iat[0], later),
    ]
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(
        tmp_path / "arrived" / "events.csv", index=False
    )
    Tables.load(run_folder.tables).items.head(1).to_csv(
        tmp_path / "arrived" / "items.csv", index=False
    )
    done = refresh("--run", run_folder.folder, "--data", tmp_path / "arrived")
    assert done.returncode == 1, done.stdout[-2000:]
    assert "item_id=ghost-item" in done.stdout
    assert "[known-items]" in done.stdout
    assert "Executing task" in done.stdout
    assert "publish-features" not in done.stdout
    assert '"outputFile"' not in done.stdout  # what the executor tells of itself
    assert (content_digest(run_folder.bundle), content_digest(run_folder.tables)) == before
    assert run_folder.next_refresh().name == "0002"


def test_a_refresh_reads_the_settings_of_what_is_running(run_folder):
    settings = refresh_settings(run_folder, None, ["refresh.test_share=0.3"])
    assert settings.backbone.hidden == 32
    assert (settings.data.split, settings.data.test_share) == ("refresh", 0.3)
    assert settings.gates.baseline == "", "the step finds the accepted log in the run's folder"
    with pytest.raises(UserError, match=r"refresh\.test_share = 2: must be at most 0\.5"):
        refresh_settings(run_folder, None, ["refresh.test_share=2"])


def test_mistakes_end_with_status_2(tmp_path):
    done = refresh("--run", tmp_path, "--data", tmp_path / "nowhere")
    assert (done.returncode, "nowhere: no such folder" in done.stderr) == (2, True)
    assert "Example: eager-llm refresh" in refresh("--help").stdout


def test_the_demo_shops_increments_follow_one_another_and_bring_new_items(tmp_path):
    folders = demo_increments(tmp_path, users=200)
    logs = [pd.read_csv(folder / "events.csv", parse_dates=["timestamp"]) for folder in folders]
    items = [set(pd.read_csv(folder / "items.csv")["item_id"]) for folder in folders]
    for number in (1, 2):
        assert logs[number]["timestamp"].min() > logs[number - 1]["timestamp"].max()
        assert len(items[number]) == 14
        assert not items[number] & set().union(*items[:number])
        assert set(logs[number]["item_id"]) & items[number]
    assert not set(logs[0]["item_id"]) - items[0]
    again = demo_increments(tmp_path / "again", users=200)
    assert [content_digest(folder) for folder in folders] == [
        content_digest(folder) for folder in again
    ]
