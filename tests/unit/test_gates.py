import pandas as pd
import pytest

from eager_llm.catalogue.gates import GateError, require, run_gates
from eager_llm.catalogue.tables import Tables
from eager_llm.settings import GateSettings


def failed(tables, tmp_path, settings=GateSettings(), needs_text=True):
    report = tmp_path / "report.html"
    with pytest.raises(GateError) as error:
        require(run_gates(tables, settings, needs_text), report)
    assert "FAILED" in report.read_text()
    assert str(report) in str(error.value)
    return str(error.value)


def test_good_tables_pass(shop, tmp_path):
    results = run_gates(shop, GateSettings(), True)
    require(results, tmp_path / "report.html")
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


def test_time_going_backwards_is_named(shop, tmp_path):
    events = shop.events.copy()
    events.loc[1, "timestamp"] = events.loc[0, "timestamp"] - pd.Timedelta(days=1)
    message = failed(Tables(events, shop.items), tmp_path)
    assert "time goes forward within a user" in message
    assert f"user_id={events.loc[1, 'user_id']}" in message


def test_too_short_a_history_is_named(shop, tmp_path):
    user = shop.events["user_id"].iat[0]
    events = pd.concat([shop.events[shop.events["user_id"] != user], shop.events.head(1)], ignore_index=True)
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
