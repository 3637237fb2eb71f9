import pandas as pd
import pytest
from conftest import ROOT

from eager_llm.bundle.gates import bundle_gates
from eager_llm.core.duckdb_engine import engine
from eager_llm.core.errors import UserError
from eager_llm.data.tables import LONGEST_ID, Tables
from eager_llm.features.feature_store import Features
from eager_llm.index.gates import index_gates
from eager_llm.release.run_folder import RunFolder
from eager_llm.settings import AcceptanceSettings, GateSettings, Settings
from eager_llm.steps.publish_features import publish
from eager_llm.steps.validate_data import validate
from eager_llm.validation.drift import drift_gates, write_profile
from eager_llm.validation.expectations import history_gates, item_gates, log_gates
from eager_llm.validation.gate_names import GATE_NAMES
from eager_llm.validation.gates import run_gates
from eager_llm.validation.report import GateError, require_passed
from eager_llm.validation.suite import run_suite


def failed(tables, tmp_path, settings=GateSettings(), needs_text=True):
    report = tmp_path / "report.html"
    with pytest.raises(GateError) as error:
        require_passed(run_gates(tables, settings, needs_text), report)
    assert "FAILED" in report.read_text()
    assert str(report) in str(error.value)
    return str(error.value)


def test_good_tables_pass(shop, tmp_path):
    results = run_gates(shop, GateSettings(), True)
    require_passed(results, tmp_path / "report.html")
    assert all(result.passed for result in results)
    assert "FAILED" not in (tmp_path / "report.html").read_text()


def test_an_orphan_item_is_named(shop, tmp_path):
    events = shop.events.copy()
    events.loc[3, "item_id"] = "ghost"
    message = failed(Tables(events, shop.items), tmp_path)
    assert "every item of the log is in the catalogue: 1 break it" in message
    assert "item_id=ghost" in message


def test_a_duplicate_item_is_named(shop, tmp_path):
    twice = pd.concat([shop.items, shop.items.head(1).assign(title="another")], ignore_index=True)
    assert f"item_id={shop.items['item_id'].iat[0]}" in failed(Tables(shop.events, twice), tmp_path)


def test_ids_that_the_service_would_not_take_are_named(shop, tmp_path):
    user, item = shop.events["user_id"].iat[0], shop.items["item_id"].iat[0]
    long, fitting = "ü" * (LONGEST_ID + 1), "ü" * LONGEST_ID

    def renamed(user_id, item_id):
        events = shop.events.replace({"user_id": {user: user_id}, "item_id": {item: item_id}})
        return Tables(events, shop.items.replace({"item_id": {item: item_id}}))

    assert all(
        result.passed for result in run_gates(renamed(fitting, fitting), GateSettings(), True)
    )
    message = failed(renamed(long, long), tmp_path)
    assert "no user id is longer than 256 characters" in message
    assert "no item id is longer than 256 characters" in message


def test_time_going_backwards_is_named(shop, tmp_path):
    events = shop.events.copy()
    events.loc[1, "timestamp"] = events.loc[0, "timestamp"] - pd.Timedelta(days=1)
    message = failed(Tables(events, shop.items), tmp_path)
    assert "time goes forward within a user" in message
    assert f"user_id={events.loc[1, 'user_id']}" in message


def test_too_short_a_history_is_named(shop, tmp_path):
    user = shop.events["user_id"].iat[0]
    events = pd.concat(
        [shop.events[shop.events["user_id"] != user], shop.events.head(1)], ignore_index=True
    )
    message = failed(Tables(events, shop.items), tmp_path)
    assert "every user has at least 3 events: 1 break it" in message
    assert f"user_id={user}" in message


def test_missing_text_fails_only_where_text_is_needed(shop, tmp_path):
    silent = shop.items.assign(title="", description="", brand="", categories="")
    tables = Tables(shop.events, silent)
    assert "have text" in failed(tables, tmp_path)
    assert all(result.passed for result in run_gates(tables, GateSettings(), needs_text=False))


def test_too_few_users_fail(shop, tmp_path):
    assert "at least 9999 users" in failed(shop, tmp_path, GateSettings(min_users=9999))


def folder_of(tables, path):
    tables.save(path)
    return path


def validated(source, settings, tmp_path, name, run=""):
    return validate(
        source,
        Settings.from_dict({"gates": settings}),
        tmp_path / name,
        tmp_path / f"{name}.html",
        run,
    )


def test_failing_rows_are_kept_and_a_person_may_go_on_without_a_gate(shop, tmp_path):
    events = shop.events.copy()
    events.loc[3, "item_id"] = "ghost"
    source = folder_of(Tables(events, shop.items), tmp_path / "tables")
    with pytest.raises(GateError, match="--waive known-items"):
        validated(source, {}, tmp_path, "refused")
    assert not (tmp_path / "refused").exists()
    rows = pd.read_parquet(tmp_path / "refused.html-rows" / "known-items.parquet")
    assert rows["item_id"].tolist() == ["ghost"]
    validated(source, {"waived": ["known-items"]}, tmp_path, "waived")
    assert Tables.load(tmp_path / "waived").metadata["waived_gates"] == ["known-items"]
    assert "waived_gates" not in Tables.load(source).metadata
    assert "FAILED, gone on without" in (tmp_path / "waived.html").read_text()
    with pytest.raises(UserError, match="no gate is called colour"):
        validated(source, {"waived": ["colour"]}, tmp_path, "other")


def test_thresholds_are_learned_from_an_accepted_run(shop, tmp_path):
    accepted = folder_of(shop, tmp_path / "tables")
    validated(accepted, {}, tmp_path, "accepted")
    baseline = {"baseline": str(tmp_path / "accepted")}
    validated(accepted, baseline, tmp_path, "same")
    half = set(shop.items["item_id"].iloc[::2])
    # Half of the catalogue gone, one item bought by all, every history longer, no descriptions.
    events = shop.events[shop.events["item_id"].isin(half)]
    more = [
        events.assign(timestamp=events["timestamp"] + pd.Timedelta(days=400 * n)) for n in range(12)
    ]
    events = pd.concat(more).sort_values(["user_id", "timestamp"]).reset_index(drop=True)
    events.loc[events.index % 2 == 0, "item_id"] = min(half)
    items = shop.items[shop.items["item_id"].isin(half)].assign(description="", categories="")
    moved = folder_of(Tables(events, items), tmp_path / "moved")
    with pytest.raises(GateError) as error:
        validated(moved, baseline, tmp_path, "drifted")
    for gate in (
        "events-size",
        "catalogue-drift",
        "popularity-drift",
        "length-drift",
        "text-drift",
    ):
        assert f"[{gate}]" in str(error.value)


def test_the_history_suite(shop, examples):
    broken = examples.copy()
    broken.at[0, "history"] = ["x"] * 30
    with engine() as connection:
        connection.register("examples", broken)
        results = {result.name: result for result in run_suite(connection, history_gates(20))}
    assert not results["history-length"].passed
    assert results["history-length"].broken == 1
    assert results["history-items"].passed


def test_publishing_refuses_histories_that_break_a_gate(shop, tmp_path, monkeypatch):
    source = folder_of(shop, tmp_path / "tables")
    whole = Features.histories

    def longer(store, asked):
        histories = whole(store, asked)
        return histories.assign(history=histories["history"].map(lambda items: items * 9))

    monkeypatch.setattr(Features, "histories", longer)

    def published(settings):
        files = tmp_path / "features", tmp_path / "examples.parquet", tmp_path / "gates.html"
        return publish(source, Settings.from_dict(settings), ROOT / "feature_repo", *files)

    with pytest.raises(
        GateError, match=r"no history is longer than 5: \d+ break it \[history-length\]"
    ):
        published({"data": {"max_history": 5}})
    assert not (tmp_path / "examples.parquet").exists()
    rows = pd.read_parquet(tmp_path / "gates.html-rows" / "history-length.parquet")
    assert set(rows.columns) == {"user_id", "item_id", "moment", "split"}
    published({"data": {"max_history": 5}, "gates": {"waived": ["history-length"]}})
    assert (tmp_path / "examples.parquet").exists()
    assert "FAILED, gone on without" in (tmp_path / "gates.html").read_text()


def test_the_report_reads_offline_and_is_safe(shop, tmp_path):
    events = shop.events.copy()
    events.loc[events.index[:12], "item_id"] = "<script>alert(1)</script>"
    failed(Tables(events, shop.items), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "http" not in page
    assert "<script" not in page
    assert "item_id=&lt;script&gt;" in page
    assert "12 rows break it" in page
    assert "And 2 more, in the folder beside this page." in page


def test_the_log_of_a_run_is_held_against_the_one_accepted_there(shop, tmp_path):
    source, run = folder_of(shop, tmp_path / "source"), str(tmp_path / "run")
    first = validated(source, {}, tmp_path, "first", run)
    assert first == validated(source, {}, tmp_path, "alone"), "nothing is accepted yet"
    RunFolder(tmp_path / "run").accept(tmp_path / "first")
    assert validated(source, {}, tmp_path, "second", run)["gates"] > first["gates"]
    few = folder_of(Tables(shop.events[: len(shop.events) // 3], shop.items), tmp_path / "few")
    with pytest.raises(GateError, match="accepted"):
        validated(few, {"min_users": 1}, tmp_path, "third", run)


def test_every_gate_has_a_name_of_its_own(shop, tmp_path):
    gates = [
        *log_gates(GateSettings()),
        *item_gates(GateSettings(), True),
        *history_gates(5),
        *index_gates(["a"], 2, True),
    ]
    gates += bundle_gates(AcceptanceSettings(baseline="any"))
    with engine() as connection:
        for name in ("events", "items"):
            connection.register(name, getattr(shop, name))
        write_profile(folder_of(shop, tmp_path / "tables"), {"events": 1, "users": 1, "items": 1})
        gates += drift_gates(connection, tmp_path / "tables", GateSettings())
    names = [gate.name for gate in gates]
    assert sorted(names) == sorted(GATE_NAMES)
