"""A refresh, step by step over a real run.

New events join the log, items keep their paths, new items are recommended, and a worse model is
refused.
"""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from eager_llm.backbone.tuned_model import ADAPTER
from eager_llm.bundle.bundle import Bundle
from eager_llm.bundle.layout import REFRESH_PLAN
from eager_llm.bundle.verify import verify_bundle
from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json
from eager_llm.core.project import project_home
from eager_llm.data.splits import KNOWN_UNTIL, assign_splits
from eager_llm.data.tables import Tables
from eager_llm.index.item_index import ItemIndex
from eager_llm.release.run_folder import RunFolder
from eager_llm.settings import Settings
from eager_llm.steps.evaluate_model import evaluate
from eager_llm.steps.examples import read_examples
from eager_llm.steps.ingest_increment import ingest_increment
from eager_llm.steps.pack_bundle import pack
from eager_llm.steps.promote_bundle import promote
from eager_llm.steps.publish_features import publish
from eager_llm.steps.refresh_plan import (
    ANNEAL,
    BUILD,
    Plan,
    measure_drift,
    rebuild_reasons,
    running_plan,
)
from eager_llm.steps.update_index import update_index
from eager_llm.steps.update_model import update_model
from eager_llm.steps.validate_data import validate
from eager_llm.validation.drift import shift_since
from pipelines.graphs.refresh import with_refresh_split

QUICK = [
    "refresh.epochs=1", "refresh.test_share=0.4", "refresh.learning_rate=1e-4",
    "promotion.resamples=200", "index.workers=0", "threads=1", "data.min_interactions=5",
    # That a refresh runs is tried here; what it is worth is tried by `make two-refreshes`.
    "promotion.tolerance=0.6", "promotion.language_tolerance=0.3",
    "promotion.latency_tolerance=100", "promotion.latency_requests=3",
    "gates.max_drift=2.0", "refresh.max_shift=50.0", "refresh.max_unfit=1.0",
]  # fmt: skip
NEW_ITEMS = ["fresh-0", "fresh-1"]


def write_arrivals(tables, folder):
    """After the log 60 users choose the same items in turn, each with a new one among them."""
    last_event = tables.events["timestamp"].max()
    item_ids = tables.items["item_id"].tolist()
    users = tables.events["user_id"].drop_duplicates().tolist()[:60]
    rows = []
    for number, user in enumerate(users):
        items = [item_ids[0], item_ids[1], NEW_ITEMS[number % 2], item_ids[3]]
        for step, item in enumerate(items):
            hours = 1 + 4 * number + step
            rows.append((user, item, last_event + pd.Timedelta(hours=hours)))
    folder.mkdir()
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    events.to_csv(folder / "events.csv", index=False)
    titles = ["Fresh Hand Saw", "Fresh Seed Tray"]
    items = tables.items.iloc[[0, 1]].assign(item_id=NEW_ITEMS, title=titles)
    items.to_csv(folder / "items.csv", index=False)
    return folder


class Refresh:
    """The steps of one refresh up to the bundle, on folders."""

    def __init__(self, run_folder, arrivals, folder, *overrides):
        self.run_folder = run_folder
        self.folder = folder
        base = read_json(run_folder.bundle / "manifest.json")["settings"]
        settings = with_refresh_split(Settings.read(None, [*QUICK, *overrides], base))
        self.settings = settings
        paths = {name: folder / name for name in (
            "arrived", "tables", "gates.html", "examples", "histories.html", "index", "embeddings",
            "plan", "index.html", "model", "metrics", "evaluation.html", "bundle", "bundle.html",
            "verdict", "report.html",
        )}  # fmt: skip
        self.paths = paths
        run = run_folder.folder
        store = (project_home() / "feature_repo", run / "features")
        log = (paths["tables"], paths["examples"])
        index, model = paths["index"], paths["model"]
        ingest_increment(str(arrivals), run, settings, paths["arrived"])
        validate(paths["arrived"], settings, paths["tables"], paths["gates.html"], str(run))
        self.published = publish(
            paths["tables"], settings, *store, paths["examples"], paths["histories.html"]
        )
        outputs = (index, paths["embeddings"], paths["plan"], paths["index.html"])
        update_index(*log, run, settings, *store, *outputs)
        inputs = (index, paths["embeddings"], paths["plan"])
        update_model(*log, *inputs, run, settings, folder / "checkpoints", model)
        evaluate(*log, index, model, settings, paths["metrics"], paths["evaluation.html"])
        outputs = (paths["bundle"], paths["bundle.html"])
        pack(*log, index, model, paths["metrics"], settings, *outputs)

    def promote(self):
        """Returns the figures of the step, and the verdict."""
        paths = self.paths
        inputs = (paths["bundle"], paths["tables"], paths["examples"], paths["plan"])
        outputs = (paths["verdict"], paths["report.html"])
        figures = promote(*inputs, self.run_folder.folder, self.settings, *outputs)
        return figures, read_json(paths["verdict"])


@pytest.fixture(scope="module")
def refresh(run, tmp_path_factory):
    """A copy of a run, and a refresh of it, not promoted yet."""
    folder = tmp_path_factory.mktemp("refresh")
    run_folder = copy_run(run, folder / "run")
    arrivals = write_arrivals(Tables.load(run_folder.tables), folder / "arrivals")
    return Refresh(run_folder, arrivals, folder / "refresh")


def copy_run(run, folder):
    for name in ("bundle", "tables", "features"):
        shutil.copytree(run.folder / name, folder / name)
    return RunFolder(folder)


def test_new_events_join_the_log_and_can_arrive_again(refresh, tmp_path):
    tables = Tables.load(refresh.paths["tables"])
    earlier = Tables.load(refresh.run_folder.folder / "tables")
    assert tables.metadata["new_events"] == 240
    assert tables.metadata["new_items"] == 2
    assert tables.metadata[KNOWN_UNTIL] == earlier.metadata["last_event"]
    assert set(earlier.items["item_id"]) < set(tables.items["item_id"])
    both = earlier.events.merge(tables.events, on=["user_id", "item_id", "timestamp"])
    assert len(both) == len(earlier.events)
    shutil.copytree(refresh.paths["tables"], tmp_path / "run" / "tables")
    arrivals = str(refresh.folder.parent / "arrivals")
    metadata = ingest_increment(arrivals, tmp_path / "run", refresh.settings, tmp_path / "again")
    assert metadata["new_events"] == 0
    assert metadata["duplicate_events_dropped"] == 240


def test_features_are_published_in_increments(refresh):
    # A row an event, of which only the new ones are; the two new items join the catalogue.
    assert refresh.published["user_history_published"] == 240
    assert refresh.published["item_catalogue_published"] == 2


def test_the_test_split_is_later_than_all_that_either_bundle_was_trained_on(refresh):
    examples = read_examples(refresh.paths["examples"])
    tables = Tables.load(refresh.paths["tables"])
    moments = {split: group["moment"] for split, group in examples.groupby("split")}
    known_until = pd.Timestamp(tables.metadata[KNOWN_UNTIL])
    last_training = moments["train"].max()
    first_validation = moments["validation"].min()
    assert max(last_training, known_until) < first_validation < moments["test"].min()
    plan = Plan.load(refresh.paths["plan"])
    assert pd.Timestamp(plan.trained_until) == last_training
    events = tables.events
    for row in examples[examples["split"] == "test"].head(10).itertuples():
        is_past = (events["user_id"] == row.user_id) & (events["timestamp"] < row.moment)
        past = events[is_past]["item_id"].tolist()
        assert list(row.history) == past[-len(row.history) :]


def test_no_old_item_moves_and_the_backbone_stays_while_the_adapter_learns(refresh):
    plan = Plan.load(refresh.paths["plan"])
    assert plan.action == ANNEAL
    assert plan.reasons == []
    assert sorted(plan.new_items) == NEW_ITEMS
    old_bundle = refresh.run_folder.folder / "bundle"
    new_bundle = refresh.paths["bundle"]
    old = ItemIndex.load(old_bundle / "item_index.parquet")
    new = ItemIndex.load(refresh.paths["index"])
    for item in old.item_ids:
        assert new.tokens(item) == old.tokens(item)
    assert new.continues(old.checksum)
    weights = "backbone/model.safetensors"
    assert (old_bundle / weights).read_bytes() == (new_bundle / weights).read_bytes()
    adapter = f"{ADAPTER}/adapter_model.safetensors"
    assert (old_bundle / adapter).read_bytes() != (new_bundle / adapter).read_bytes()
    verify_bundle(new_bundle)
    manifest = read_json(old_bundle / "manifest.json")
    assert running_plan(new_bundle).built_until == manifest["data"]["last_event"]
    assert "annealing" in refresh.paths["evaluation.html"].read_text()


def later_arrivals(refresh):
    """The same events once more, 40 days later."""
    folder = refresh.folder.parent
    events = pd.read_csv(folder / "arrivals" / "events.csv", parse_dates=["timestamp"])
    events["timestamp"] += pd.Timedelta(days=40)
    (folder / "more").mkdir()
    events.to_csv(folder / "more" / "events.csv", index=False)
    return folder / "more"


def test_it_is_promoted_its_new_items_are_answered_and_a_worse_one_is_refused(refresh):
    run_folder = refresh.run_folder
    first_version = Bundle.load(run_folder.bundle).version
    figures, verdict = refresh.promote()
    assert verdict["outcome"] == "promoted"
    assert figures["promoted"] == 1.0
    promoted = Bundle.load(run_folder.bundle)
    assert promoted.version == Bundle.load(refresh.paths["bundle"]).version != first_version
    assert Bundle.load(run_folder.previous).version == first_version
    assert read_json(run_folder.tables / "metadata.json")["new_items"] == 2
    assert set(verdict["table"]) == {"running bundle", "new bundle", "co-occurrence", "popularity"}
    assert verdict["new_items"]["targets"] > 0
    for answer in promoted.recommender.recommend([["fresh-0"], ["fresh-1"]], 300):
        assert set(NEW_ITEMS) <= {item for item, _ in answer}
    page = refresh.paths["report.html"].read_text()
    assert "2 new items got paths, no other item moved" in page
    assert "items new since the build" in page
    # The next refresh knows of this one; with the rate that high its adapter is worth nothing.
    more = later_arrivals(refresh)
    harmful = [
        "refresh.learning_rate=5.0", "refresh.epochs=5", "item_prior.weights=[0.0]",
        "promotion.tolerance=0.2",
    ]  # fmt: skip
    worse = Refresh(run_folder, more, refresh.folder.parent / "worse", *harmful)
    first_index = ItemIndex.load(run_folder.previous / "item_index.parquet")
    assert ItemIndex.load(worse.paths["index"]).continues(first_index.checksum)
    figures, verdict = worse.promote()
    assert (verdict["outcome"], figures["promoted"]) == ("refused", 0.0)
    assert any(reason.startswith("ndcg@10: ") for reason in verdict["reasons"])
    assert verdict["reasons"][0] in worse.paths["report.html"].read_text().replace("&#39;", "'")
    assert Bundle.load(run_folder.bundle).version == promoted.version  # it runs still
    assert read_json(run_folder.tables / "metadata.json")["new_items"] == 0  # but the log goes on
    check_repeated(worse, more)
    assert run_folder.roll_back() == "running"
    assert Bundle.load(run_folder.bundle).version == first_version


def check_repeated(refused, arrivals):
    """A refused refresh can be repeated: its events are still new to what is running."""
    run_folder, settings = refused.run_folder, refused.settings
    accepted = Tables.load(run_folder.tables)
    folder = refused.folder.parent / "again"
    metadata = ingest_increment(str(arrivals), run_folder.folder, settings, folder)
    assert metadata["new_events"] == 0
    running_log = read_json(run_folder.bundle / "manifest.json")["data"]
    assert metadata[KNOWN_UNTIL] == running_log["last_event"] < accepted.metadata["last_event"]
    splits = assign_splits(Tables.load(folder), settings.data)["split"]
    refused_tables = Tables.load(refused.paths["tables"])
    refused_splits = assign_splits(refused_tables, settings.data)["split"]
    assert splits.tolist() == refused_splits.tolist()


def with_refresh(settings, **changes):
    return settings.replace(refresh=settings.refresh.replace(**changes))


def test_drift_beyond_its_limit_builds_anew_unless_it_is_not_to(refresh):
    settings = refresh.settings
    tables = refresh.paths["tables"]
    small = replace(Plan.load(refresh.paths["plan"]), built_items=10)
    drift = measure_drift(tables, small, 12, 0.5, settings)
    assert drift["items new since the build"] == {"found": 0.2, "most": 0.25}
    assert rebuild_reasons(drift, settings) == []
    tight = with_refresh(settings, max_unfit=0.3)
    reasons = rebuild_reasons(measure_drift(tables, small, 12, 0.5, tight), tight)
    assert reasons == ["paths that no longer fit: 0.500, at most 0.3"]
    for rebuild, expected in (("always", ["refresh.rebuild = always"]), ("never", [])):
        assert rebuild_reasons(drift, with_refresh(settings, rebuild=rebuild)) == expected
    assert read_json(refresh.paths["bundle"] / REFRESH_PLAN)["action"] != BUILD


def test_a_refresh_that_builds_anew_has_a_tree_and_a_model_of_its_own(run, refresh, tmp_path):
    run_folder = copy_run(run, tmp_path / "run")
    overrides = ["refresh.rebuild=always", "tuning.epochs=1", "tuning.language_items=5"]
    arrivals = refresh.folder.parent / "arrivals"
    rebuilt = Refresh(run_folder, arrivals, tmp_path / "refresh", *overrides)
    plan = running_plan(rebuilt.paths["bundle"])
    assert (plan.action, plan.reasons) == (BUILD, ["refresh.rebuild = always"])
    assert plan.built_until == read_json(rebuilt.paths["tables"] / "metadata.json")["last_event"]
    index = ItemIndex.load(rebuilt.paths["index"])
    assert set(NEW_ITEMS) <= set(index.item_ids)
    assert plan.built_items == len(index.item_ids)
    running_index = ItemIndex.load(run_folder.bundle / "item_index.parquet")
    assert not index.continues(running_index.checksum)
    _, verdict = rebuilt.promote()
    assert verdict["running"]  # it is compared like any other
    page = rebuilt.paths["report.html"].read_text()
    assert "Everything was rebuilt: refresh.rebuild = always" in page


def test_the_shift_is_none_for_more_of_the_same_and_large_for_another_shop(tmp_path):
    start = pd.Timestamp("2026-01-01", tz="UTC")

    def shift(late_items, late_hours):
        hours = [pd.Timedelta(hours=10 * n) for n in range(2000)]
        rows = [("u", f"i{n % 20}", start + hour) for n, hour in enumerate(hours)]
        middle = rows[-1][2]
        for n, item in enumerate(late_items, start=1):
            rows.append(("v", item, middle + pd.Timedelta(hours=late_hours * n)))
        folder = tmp_path / f"{late_hours}-{late_items[1]}"
        folder.mkdir()
        events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
        events.to_parquet(folder / "events.parquet")
        return shift_since(folder, middle.isoformat(), 1.0)

    even = [f"i{n % 20}" for n in range(1000)]
    assert max(shift(even, 10).values()) < 0.01
    one_item = shift(["i3"] * 1000, 10)
    assert one_item["popularity"] > 0.25 > one_item["pauses"]
    faster = shift(even, 0.1)
    assert faster["pauses"] > 0.25 > faster["popularity"]
    assert shift(["new"] * 5, 10) == {}


def test_a_log_without_a_clock_cannot_be_refreshed(tmp_path, settings):
    (tmp_path / "run" / "tables").mkdir(parents=True)
    (tmp_path / "run" / "tables" / "metadata.json").write_text("{}")
    with pytest.raises(UserError, match="an order but no clock"):
        ingest_increment("anywhere", tmp_path / "run", settings, tmp_path / "out")
