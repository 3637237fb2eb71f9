"""The whole pipeline as people start it: a command, through every engine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, run_command, seen_user, write_csv

from eager_llm.bundle.verify import verify_bundle
from eager_llm.data.demo_shop import demo_shop
from eager_llm.evaluation.methods import (
    COOCCURRENCE,
    MODEL,
    MODEL_WITH_PRIOR,
    POPULARITY,
    PRIOR_ALONE,
)

METHODS = [MODEL_WITH_PRIOR, MODEL, PRIOR_ALONE, COOCCURRENCE, POPULARITY]


def start(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=400)


def test_a_run_leaves_a_summary_a_report_and_a_bundle(run):
    summary = json.loads((run.folder / "summary.json").read_text())
    assert list(summary["methods"]) == METHODS
    for row in summary["methods"].values():
        assert set(row) == {f"{kind}@{k}" for kind in ("recall", "ndcg") for k in (1, 5, 10)}
        assert 0 <= row["recall@1"] <= row["recall@5"] <= row["recall@10"] <= 1
    assert set(summary["seconds"]) == {
        "ingest",
        "validate",
        "publish",
        "index",
        "tune",
        "evaluate",
        "pack",
    }
    assert summary["seed"] == 0
    assert summary["settings"]["tuning"]["epochs"] == 2
    verify_bundle(run.folder / "bundle")
    page = (run.folder / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "stage-2: 1 epoch, cross-entropy" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")


def test_a_run_prints_the_table_and_five_titles_for_a_user(run):
    tail = run.output[run.output.rindex("test split") :]
    assert [line.split("  ")[0] for line in tail.splitlines()[1:6]] == METHODS
    assert all(f"  {place}. " in tail for place in range(1, 6))
    assert str(run.folder / "bundle") in tail


def test_progress_is_seen(run):
    assert "stage-1: 100%" in run.output
    assert "validation NDCG@10" in run.output


def test_a_second_run_reuses_every_step(run):
    before = (run.folder / "times.jsonl").read_text()
    again = start(run_command(run.source, "first", run.folder.parent))
    assert again.returncode == 0, again.stdout[-3000:]
    assert (run.folder / "times.jsonl").read_text() == before


def test_a_changed_setting_runs_only_what_it_touches(run):
    steps = len((run.folder / "times.jsonl").read_text().splitlines())
    other = start(run_command(run.source, "first", run.folder.parent, "annealing.epochs=0"))
    assert other.returncode == 0, other.stdout[-3000:]
    rows = [
        json.loads(line)["step"]
        for line in (run.folder / "times.jsonl").read_text().splitlines()[steps:]
    ]
    assert rows == ["tune", "evaluate", "pack"]
    assert not (run.folder / "bundle" / "adapter").exists()
    # Back to the first settings, for whoever uses the run next; all of it is re-used.
    assert start(run_command(run.source, "first", run.folder.parent)).returncode == 0
    assert (run.folder / "bundle" / "adapter").is_dir()


def test_killed_while_tuning_it_goes_on_and_ends_as_an_unbroken_run(run, tmp_path):
    command = run_command(run.source, "killed", tmp_path)
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not list((tmp_path / "killed" / "checkpoints").glob("*/stage-1.pt")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "bundle").exists()
    again = start(command)
    assert again.returncode == 0, again.stdout[-3000:]
    assert "stage-1: going on from epoch" in again.stdout
    resumed, unbroken = (
        json.loads((folder / "summary.json").read_text())
        for folder in (tmp_path / "killed", run.folder)
    )
    assert resumed["methods"] == unbroken["methods"]
    times = [
        json.loads(line)["step"]
        for line in (tmp_path / "killed" / "times.jsonl").read_text().splitlines()
    ]
    assert sorted(times) == sorted(set(times)), "a step that had ended was run again"


def test_a_failed_gate_stops_the_run_names_the_rows_and_keeps_the_report(tmp_path):
    shop = demo_shop(seed=0, users=60)
    events = shop.events.copy()
    events.loc[5, "item_id"] = "ghost-item"
    source = write_csv(type(shop)(events, shop.items, None, {}), tmp_path / "shop")
    done = start(run_command(source, "gated", tmp_path))
    assert done.returncode == 1
    assert "item_id=ghost-item" in done.stdout
    assert "Traceback" not in done.stdout[: done.stdout.index("item_id=ghost-item")]
    report = done.stdout.rsplit("report: ", 1)[1].splitlines()[0].strip()
    assert "ghost-item" in Path(report).read_text(encoding="utf-8")
    assert not (tmp_path / "gated" / "bundle").exists()
    assert not (tmp_path / "gated" / "features").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--set", "tuning.epochs=0"], "tuning.epochs = 0: must be at least 1"),
        (["--settings", "missing.yaml"], "missing.yaml: no such settings file"),
    ],
)
def test_mistakes_end_with_status_2_and_no_traceback(tmp_path, arguments, said):
    command = [
        sys.executable,
        "-m",
        "eager_llm.cli.main",
        "run",
        "--runs",
        str(tmp_path),
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def cli(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "eager_llm.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_recommend_speaks_for_users_and_for_items(run):
    bundle = run.folder / "bundle"
    for_user = cli("recommend", "--bundle", bundle, "--user", seen_user(run), "--k", 3)
    assert for_user.returncode == 0, for_user.stderr
    assert len(for_user.stdout.splitlines()) == 3
    item = pd.read_parquet(bundle / "catalogue.parquet")["item_id"].iat[0]
    assert cli("recommend", "--bundle", bundle, "--items", item).returncode == 0
    unknown = cli("recommend", "--bundle", bundle, "--items", "nothing")
    assert unknown.returncode == 2
    assert "the bundle does not know the items nothing" in unknown.stderr


def test_recommend_obeys_filters_and_says_why_it_is_short(run):
    bundle = run.folder / "bundle"
    items = pd.read_parquet(bundle / "catalogue.parquet").set_index("item_id")
    brand, item = items["brand"].iat[0], items.index[0]
    filters = ["--filter", f"brand={brand}", "--filter", "price<=40", "--exclude-history"]
    done = cli("recommend", "--bundle", bundle, "--items", item, "--k", 4, *filters)
    assert done.returncode == 0, done.stderr
    found = [line.rsplit("(", 1)[1].split(",")[0] for line in done.stdout.splitlines()]
    assert len(found) == 4
    assert item not in found
    assert (items.loc[found, "brand"] == brand).all()
    assert (items.loc[found, "price"] <= 40).all()
    nothing = cli("recommend", "--bundle", bundle, "--items", item, "--filter", "price<=0")
    assert (nothing.returncode, nothing.stdout.strip()) == (
        0,
        "no items are in the index with price <= 0",
    )
    wrong = cli("recommend", "--bundle", bundle, "--items", item, "--filter", "colour=red")
    assert wrong.returncode == 2
    assert "the catalogue has no such column" in wrong.stderr


def test_evaluate_repeats_the_runs_figures(run):
    examples = next((run.folder / "artifacts").rglob("examples"))
    done = cli(
        "evaluate", "--bundle", run.folder / "bundle", "--examples", examples, "--part", "test"
    )
    assert done.returncode == 0, done.stderr
    recall = json.loads((run.folder / "summary.json").read_text())["methods"][MODEL_WITH_PRIOR][
        "recall@10"
    ]
    assert f"{recall:.4f}" in done.stdout


def test_import_writes_tables_and_says_what_was_dropped(run, tmp_path):
    done = cli("import", run.source, "--out", tmp_path / "tables")
    assert done.returncode == 0, done.stderr
    assert "events outside core dropped" in done.stdout
    assert (tmp_path / "tables" / "events.parquet").is_file()
    (tmp_path / "broken").mkdir()
    assert cli("import", tmp_path / "broken", "--out", tmp_path / "none").returncode == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["import"],
        ["features"],
        ["erase"],
        ["run"],
        ["night"],
        ["rollout"],
        ["recommend"],
        ["serve"],
        ["evaluate"],
        ["bundle", "verify"],
    ],
)
def test_every_command_has_help_worth_reading(command):
    done = cli(*command, "--help")
    assert done.returncode == 0
    assert "eager-llm" in done.stdout or "curl" in done.stdout
