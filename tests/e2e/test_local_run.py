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
import yaml
from conftest import ROOT, run_command, user_of, write_csv
from jsonschema import Draft202012Validator

from eager_llm.bundle.verify import verify_bundle
from eager_llm.cli.options import waived_overrides
from eager_llm.data.demo_shop import demo_shop
from eager_llm.evaluation.methods import (
    COOCCURRENCE,
    MODEL,
    MODEL_WITH_PRIOR,
    POPULARITY,
    PRIOR_ALONE,
)

METHODS = [MODEL_WITH_PRIOR, MODEL, PRIOR_ALONE, COOCCURRENCE, POPULARITY]
METRICS = ["recall@1", "recall@5", "recall@10", "ndcg@1", "ndcg@5", "ndcg@10"]
STEPS = ["ingest", "validate", "publish", "index", "tune", "evaluate", "pack"]
# Names of vocabularies in the plots' metadata; nothing is loaded from them.
VOCABULARIES = ("http://www.w3.org", "http://purl.org", "http://creativecommons.org")


def start(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=400)


def cli(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "eager_llm.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def step_names(folder, first=0):
    """The steps that have run into a folder, from the row `first` on."""
    lines = (folder / "times.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines[first:]]


def read_summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_run_leaves_a_summary_a_report_and_a_bundle(run):
    summary = read_summary(run.folder)
    assert list(summary["methods"]) == METHODS
    for row in summary["methods"].values():
        assert set(row) == set(METRICS)
        assert 0 <= row["recall@1"] <= row["recall@5"] <= row["recall@10"] <= 1
    assert set(summary["seconds"]) == set(STEPS)
    assert summary["seed"] == 0
    assert summary["settings"]["tuning"]["epochs"] == 2
    verify_bundle(run.folder / "bundle")
    page = (run.folder / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "stage-2: 1 epoch, cross-entropy" in page
    for vocabulary in VOCABULARIES:
        page = page.replace(vocabulary, "")
    assert "http://" not in page


def test_a_run_prints_the_table_and_five_titles_for_a_user(run):
    tail = run.output[run.output.rindex("test split") :]
    rows = tail.splitlines()[1:6]
    assert [row.split("  ")[0] for row in rows] == METHODS
    for rank in range(1, 6):
        assert f"  {rank}. " in tail
    assert str(run.folder / "bundle") in tail


def test_progress_is_seen(run):
    assert "stage-1: 100%" in run.output
    assert "validation NDCG@10" in run.output


def test_a_second_run_reuses_every_step(run):
    times = (run.folder / "times.jsonl").read_text()
    again = start(run_command(run.source, "first", run.folder.parent))
    assert again.returncode == 0, again.stdout[-3000:]
    assert (run.folder / "times.jsonl").read_text() == times


def test_a_changed_setting_runs_only_what_it_touches(run):
    earlier_steps = step_names(run.folder)
    other = start(run_command(run.source, "first", run.folder.parent, "annealing.epochs=0"))
    assert other.returncode == 0, other.stdout[-3000:]
    assert step_names(run.folder, len(earlier_steps)) == ["tune", "evaluate", "pack"]
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
    checkpoints = tmp_path / "killed" / "checkpoints"
    while not list(checkpoints.glob("*/stage-1.pt")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "bundle").exists()
    again = start(command)
    assert again.returncode == 0, again.stdout[-3000:]
    assert "stage-1: going on from epoch" in again.stdout
    resumed = read_summary(tmp_path / "killed")
    assert resumed["methods"] == read_summary(run.folder)["methods"]
    steps = step_names(tmp_path / "killed")
    assert sorted(steps) == sorted(set(steps)), "a step that had ended was run again"


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
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--set", "tuning.epochs=0"], "tuning.epochs = 0: must be at least 1"),
        (["--settings", "missing.yaml"], "missing.yaml: no such settings file"),
    ],
)
def test_mistakes_end_with_status_2_and_no_traceback(tmp_path, arguments, message):
    done = cli("run", "--runs", tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_recommend_speaks_for_users_and_for_items(run):
    bundle = run.folder / "bundle"
    for_user = cli("recommend", "--bundle", bundle, "--user", user_of(run), "--k", 3)
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
    item = items.index[0]
    brand = items["brand"].iat[0]
    filters = ["--filter", f"brand={brand}", "--filter", "price<=40", "--exclude-history"]
    done = cli("recommend", "--bundle", bundle, "--items", item, "--k", 4, *filters)
    assert done.returncode == 0, done.stderr
    item_ids = [line.rsplit("(", 1)[1].split(",")[0] for line in done.stdout.splitlines()]
    assert len(item_ids) == 4
    assert item not in item_ids
    assert (items.loc[item_ids, "brand"] == brand).all()
    assert (items.loc[item_ids, "price"] <= 40).all()
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
    recall = read_summary(run.folder)["methods"][MODEL_WITH_PRIOR]["recall@10"]
    # --part is the name of --split in earlier versions.
    for option in ("--split", "--part"):
        words = ["--bundle", run.folder / "bundle", "--examples", examples, option, "test"]
        done = cli("evaluate", *words)
        assert done.returncode == 0, done.stderr
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
        ["refresh"],
        ["rollout"],
        ["recommend"],
        ["serve"],
        ["evaluate"],
        ["settings"],
        ["bundle", "verify"],
    ],
)
def test_every_command_has_help_worth_reading(command):
    done = cli(*command, "--help")
    assert done.returncode == 0
    assert "eager-llm" in done.stdout or "curl" in done.stdout


def test_the_earlier_names_work_and_are_not_shown(tmp_path):
    missing = ["--data", "nowhere", "--run", tmp_path, "--continue-without", "no-such-gate"]
    done = cli("night", *missing)
    assert done.returncode == 2
    assert "`eager-llm night` is now called `eager-llm refresh`" in done.stderr
    assert "--continue-without is now called --waive" in done.stderr
    assert "nowhere: no such folder" in done.stderr
    assert "night" not in cli("--help").stdout
    for command in ("run", "refresh"):
        help_text = cli(command, "--help").stdout
        assert "--waive" in help_text
        assert "--continue-without" not in help_text


def test_waived_gates_go_to_the_section_of_their_suite():
    assert waived_overrides("", "") == []
    overrides = waived_overrides("known-items, metrics-kept", "drift")
    assert overrides == ["gates.waived=known-items,drift", "acceptance.waived=metrics-kept"]


@pytest.mark.parametrize("option", ["--waive", "--continue-without"])
def test_the_names_of_waived_gates_are_checked(run, tmp_path, option):
    done = cli("run", "--data", run.source, "--runs", tmp_path, option, "no-such-gate")
    assert done.returncode == 1
    assert "no gate is called no-such-gate" in done.stdout + done.stderr


def test_the_printed_schema_is_that_of_the_projects_settings():
    schema = json.loads(cli("settings", "--schema").stdout)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    files = sorted((ROOT / "pipelines" / "settings").glob("*.yaml"))
    assert files
    for file in files:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        validator.validate(values)
    for values in ({"tuning": {"epochs": 0}}, {"tuning": {"epoch": 1}}, {"seed": "one"}):
        assert not validator.is_valid(values)
