"""A night step by step over a real run: what arrives joins, old paths stay, new items are answered, a worse model is refused."""

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
    "refresh.epochs=1", "refresh.test_share=0.4", "refresh.learning_rate=1e-4", "promotion.resamples=200",
    # That a night runs is tried here; what it is worth is tried by `make two-refreshes`.
    "promotion.tolerance=0.6", "promotion.language_tolerance=0.3", "promotion.latency_tolerance=100",
    "promotion.latency_requests=3", "gates.max_drift=2.0", "refresh.max_shift=50.0", "refresh.max_unfit=1.0", "data.min_interactions=5", "index.workers=0", "threads=1",
]  # fmt: skip


def arrivals(tables, folder):
    """After the log 60 known users, one after another, choose the same known items with a new one among them."""
    newest, known = tables.events["timestamp"].max(), tables.items["item_id"].tolist()
    users = tables.events["user_id"].drop_duplicates().tolist()[:60]
    rows = []
    for number, user in enumerate(users):
        for step in range(4):
            item = f"fresh-{number % 2}" if step == 2 else known[step]
            rows.append((user, item, newest + pd.Timedelta(hours=1 + 4 * number + step)))
    folder.mkdir()
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(
        folder / "events.csv", index=False
    )
    like = tables.items.iloc[[0, 1]].assign(
        item_id=["fresh-0", "fresh-1"], title=["Fresh Hand Saw", "Fresh Seed Tray"]
    )
    like.to_csv(folder / "items.csv", index=False)
    return folder


class Night:
    """The steps of one night up to the bundle, on folders."""

    def __init__(self, place, source, folder, *overrides):
        self.place, self.folder = place, folder
        base = read_json(place.bundle / "manifest.json")["settings"]
        self.settings = with_refresh_split(Settings.read(None, [*QUICK, *overrides], base))
        home = project_home() / "feature_repo", place.folder / "features"
        p = {name: folder / name for name in (
            "arrived", "tables", "gates.html", "examples", "histories.html", "index", "embeddings", "plan", "index.html",
            "model", "metrics", "evaluation.html", "bundle", "bundle.html", "verdict", "report.html",
        )}  # fmt: skip
        self.paths, run = p, place.folder
        ingest_increment(str(source), run, self.settings, p["arrived"])
        validate(p["arrived"], self.settings, p["tables"], p["gates.html"], str(run))
        self.published = publish(
            p["tables"], self.settings, *home, p["examples"], p["histories.html"]
        )
        both = p["tables"], p["examples"]
        update_index(
            *both,
            run,
            self.settings,
            *home,
            p["index"],
            p["embeddings"],
            p["plan"],
            p["index.html"],
        )
        inputs = p["index"], p["embeddings"], p["plan"]
        update_model(*both, *inputs, run, self.settings, folder / "checkpoints", p["model"])
        evaluate(*both, p["index"], p["model"], self.settings, p["metrics"], p["evaluation.html"])
        pack(
            *both,
            p["index"],
            p["model"],
            p["metrics"],
            self.settings,
            p["bundle"],
            p["bundle.html"],
        )

    def promote(self):
        p = self.paths
        figures = promote(
            p["bundle"], p["tables"], p["examples"], p["plan"], self.place.folder, self.settings, p["verdict"], p["report.html"]
        )  # fmt: skip
        return figures, read_json(p["verdict"])


@pytest.fixture(scope="module")
def night(run, tmp_path_factory):
    """A copy of a run, and a night over it, not promoted yet."""
    folder = tmp_path_factory.mktemp("night")
    for part in ("bundle", "tables", "features"):
        shutil.copytree(run.folder / part, folder / "run" / part)
    place = RunFolder(folder / "run")
    source = arrivals(Tables.load(place.tables), folder / "arrivals")
    return Night(place, source, folder / "night")


def test_what_arrived_joins_the_log_and_can_arrive_again(night, tmp_path):
    tables, before = Tables.load(night.paths["tables"]), Tables.load(night.place.folder / "tables")
    assert tables.metadata["new_events"] == 240
    assert tables.metadata["new_items"] == 2
    assert tables.metadata[KNOWN_UNTIL] == before.metadata["last_event"]
    assert set(before.items["item_id"]) < set(tables.items["item_id"])
    both = before.events.merge(tables.events, on=["user_id", "item_id", "timestamp"])
    assert len(both) == len(before.events)
    shutil.copytree(night.paths["tables"], tmp_path / "run" / "tables")
    metadata = ingest_increment(
        str(night.folder.parent / "arrivals"), tmp_path / "run", night.settings, tmp_path / "again"
    )
    assert metadata["new_events"] == 0
    assert metadata["duplicate_events_dropped"] == 240


def test_features_are_published_in_increments(night):
    # A row an event, of which only the new ones are; the two new items join the catalogue.
    assert night.published["user_history_published"] == 240
    assert night.published["item_catalogue_published"] == 2


def test_the_test_part_is_later_than_all_that_either_bundle_was_trained_on(night):
    examples = read_examples(night.paths["examples"])
    moments = {part: group["moment"] for part, group in examples.groupby("split")}
    known = pd.Timestamp(Tables.load(night.paths["tables"]).metadata[KNOWN_UNTIL])
    assert max(moments["train"].max(), known) < moments["validation"].min() < moments["test"].min()
    plan = Plan.load(night.paths["plan"])
    assert pd.Timestamp(plan.trained_until) == moments["train"].max()
    events = Tables.load(night.paths["tables"]).events
    for row in examples[examples["split"] == "test"].head(10).itertuples():
        past = events[(events["user_id"] == row.user_id) & (events["timestamp"] < row.moment)][
            "item_id"
        ].tolist()
        assert list(row.history) == past[-len(row.history) :]


def test_no_old_item_moves_and_the_backbone_stays_while_the_adapter_learns(night):
    plan = Plan.load(night.paths["plan"])
    assert (plan.action, plan.reasons, sorted(plan.new_items)) == (
        ANNEAL,
        [],
        ["fresh-0", "fresh-1"],
    )
    old = ItemIndex.load(night.place.folder / "bundle" / "item_index.parquet")
    new = ItemIndex.load(night.paths["index"])
    assert {item: new.tokens(item) for item in old.item_ids} == {
        item: old.tokens(item) for item in old.item_ids
    }
    assert new.continues(old.checksum)
    before, after = night.place.folder / "bundle", night.paths["bundle"]
    weights = "backbone/model.safetensors"
    assert (before / weights).read_bytes() == (after / weights).read_bytes()
    adapter = f"{ADAPTER}/adapter_model.safetensors"
    assert (before / adapter).read_bytes() != (after / adapter).read_bytes()
    verify_bundle(after)
    assert (
        running_plan(after).built_until == read_json(before / "manifest.json")["data"]["last_event"]
    )
    assert "annealing" in night.paths["evaluation.html"].read_text()


def test_it_is_promoted_its_new_items_are_answered_and_a_worse_one_is_refused(night):
    place = night.place
    was = Bundle.load(place.bundle).version
    figures, verdict = night.promote()
    assert verdict["outcome"] == "promoted"
    assert figures["promoted"] == 1.0
    assert Bundle.load(place.bundle).version == Bundle.load(night.paths["bundle"]).version != was
    assert Bundle.load(place.previous).version == was
    assert read_json(place.tables / "metadata.json")["new_items"] == 2
    assert set(verdict["table"]) == {"running bundle", "new bundle", "co-occurrence", "popularity"}
    assert verdict["new_items"]["targets"] > 0
    answers = Bundle.load(place.bundle).recommender.recommend([["fresh-0"], ["fresh-1"]], 300)
    assert all({"fresh-0", "fresh-1"} <= {item for item, _ in answer} for answer in answers)
    page = night.paths["report.html"].read_text()
    assert "2 new items got paths, no other moved" in page
    assert "items new since the build" in page
    # The next night knows of this one; with the rate that high its adapter is worth nothing.
    more = night.folder.parent / "more"
    later = pd.read_csv(night.folder.parent / "arrivals" / "events.csv", parse_dates=["timestamp"])
    later = later.assign(timestamp=later["timestamp"] + pd.Timedelta(days=40))
    more.mkdir()
    later.to_csv(more / "events.csv", index=False)
    broken = [
        "refresh.learning_rate=5.0",
        "refresh.epochs=5",
        "item_prior.weights=[0.0]",
        "promotion.tolerance=0.2",
    ]
    worse = Night(place, more, night.folder.parent / "worse", *broken)
    running = Bundle.load(place.bundle).version
    assert ItemIndex.load(worse.paths["index"]).continues(
        ItemIndex.load(place.previous / "item_index.parquet").checksum
    )
    figures, verdict = worse.promote()
    assert (verdict["outcome"], figures["promoted"]) == ("refused", 0.0)
    assert any(reason.startswith("ndcg@10: ") for reason in verdict["reasons"])
    assert verdict["reasons"][0] in worse.paths["report.html"].read_text().replace("&#39;", "'")
    assert Bundle.load(place.bundle).version == running  # what was running still is
    assert read_json(place.tables / "metadata.json")["new_items"] == 0  # but the log goes on
    # Refused, the night can be made again, or waits for the next: its events are still new to what is running.
    again = Tables.load(place.tables)
    metadata = ingest_increment(
        str(more), place.folder, worse.settings, night.folder.parent / "again"
    )
    assert metadata["new_events"] == 0
    assert (
        metadata[KNOWN_UNTIL]
        == read_json(place.bundle / "manifest.json")["data"]["last_event"]
        < again.metadata["last_event"]
    )
    parts = assign_splits(Tables.load(night.folder.parent / "again"), worse.settings.data)["split"]
    assert (
        parts.tolist()
        == assign_splits(Tables.load(worse.paths["tables"]), worse.settings.data)["split"].tolist()
    )
    assert place.roll_back() == "running"
    assert Bundle.load(place.bundle).version == was


def test_drift_beyond_its_limit_builds_anew_unless_it_is_not_to(night):
    plan = Plan.load(night.paths["plan"])
    tables = night.paths["tables"]
    small = replace(plan, built_items=10)
    drift = measure_drift(tables, small, 12, 0.5, night.settings)
    assert drift["items new since the build"] == {"found": 0.2, "most": 0.25}
    reasons = rebuild_reasons(drift, night.settings)
    assert reasons == []
    tight = night.settings.replace(refresh=night.settings.refresh.replace(max_unfit=0.3))
    assert rebuild_reasons(measure_drift(tables, small, 12, 0.5, tight), tight) == [
        "paths that no longer fit: 0.500, at most 0.3"
    ]
    for rebuild, expected in (("always", ["refresh.rebuild = always"]), ("never", [])):
        settings = night.settings.replace(refresh=night.settings.refresh.replace(rebuild=rebuild))
        assert rebuild_reasons(drift, settings) == expected
    assert read_json(night.paths["bundle"] / REFRESH_PLAN)["action"] != BUILD


def test_a_night_that_builds_anew_has_a_tree_and_a_model_of_its_own(run, night, tmp_path):
    for part in ("bundle", "tables", "features"):
        shutil.copytree(run.folder / part, tmp_path / "run" / part)
    place = RunFolder(tmp_path / "run")
    few = ["refresh.rebuild=always", "tuning.epochs=1", "tuning.language_items=5"]
    built = Night(place, night.folder.parent / "arrivals", tmp_path / "night", *few)
    plan = running_plan(built.paths["bundle"])
    assert (plan.action, plan.reasons) == (BUILD, ["refresh.rebuild = always"])
    assert plan.built_until == read_json(built.paths["tables"] / "metadata.json")["last_event"]
    index = ItemIndex.load(built.paths["index"])
    assert {"fresh-0", "fresh-1"} <= set(index.item_ids)
    assert plan.built_items == len(index.item_ids)
    assert not index.continues(ItemIndex.load(place.bundle / "item_index.parquet").checksum)
    _, verdict = built.promote()
    assert verdict["running"]  # it is compared like any other
    assert (
        "Everything was built anew: refresh.rebuild = always"
        in built.paths["report.html"].read_text()
    )


def test_the_shift_is_none_for_more_of_the_same_and_large_for_another_shop(tmp_path):
    start = pd.Timestamp("2026-01-01", tz="UTC")

    def shift(late_items, late_hours):
        early = [("u", f"i{n % 20}", start + pd.Timedelta(hours=10 * n)) for n in range(2000)]
        middle = early[-1][2]
        late = [
            ("v", item, middle + pd.Timedelta(hours=late_hours * (n + 1)))
            for n, item in enumerate(late_items)
        ]
        folder = tmp_path / f"{late_hours}-{late_items[1]}"
        folder.mkdir()
        events = pd.DataFrame([*early, *late], columns=["user_id", "item_id", "timestamp"])
        events.to_parquet(folder / "events.parquet")
        return shift_since(folder, middle.isoformat(), 1.0)

    same = shift([f"i{n % 20}" for n in range(1000)], 10)
    assert max(same.values()) < 0.01
    other = shift(["i3" for n in range(1000)], 10)
    assert other["popularity"] > 0.25 > other["pauses"]
    faster = shift([f"i{n % 20}" for n in range(1000)], 0.1)
    assert faster["pauses"] > 0.25 > faster["popularity"]
    assert shift(["new"] * 5, 10) == {}


def test_a_log_without_a_clock_has_no_nights(tmp_path, settings):
    (tmp_path / "run" / "tables").mkdir(parents=True)
    (tmp_path / "run" / "tables" / "metadata.json").write_text("{}")
    with pytest.raises(UserError, match="an order but no clock"):
        ingest_increment("anywhere", tmp_path / "run", settings, tmp_path / "out")
