"""Rolling out by Helm: what each command changes, rendered by Helm's own library, and what is asked of a cluster."""

from typing import ClassVar

import helm_python
import pytest
import yaml
from rendering import CHARTS, objects, values
from typer.testing import CliRunner

from eager_llm.cli.main import app
from eager_llm.core.errors import UserError
from eager_llm.release import helm
from eager_llm.release.helm import Helm, Step, canary_steps, promote_steps, render, rollback_steps
from eager_llm.settings import RolloutSettings

SERVING = CHARTS / "eager-llm-serving"
SETTINGS = RolloutSettings(release="shop", namespace="recommender", chart=str(SERVING), timeout=60)
NEW, OLD = "2026-02-14-0123456789ab", "2026-01-31"
PRODUCTION, ROUTED = (
    SERVING / "examples" / "cpu-production.yaml",
    SERVING / "examples" / "canary.yaml",
)


def deployments(texts):
    found = [
        one
        for one in objects(texts)
        if one["kind"] == "Deployment" and "redis" not in one["metadata"]["name"]
    ]
    return {one["metadata"]["name"]: str(one["spec"]["template"]) for one in found}


def shown(example, steps, *assignments):
    return deployments(render(SETTINGS, values(example, *assignments), steps))


def test_a_canary_adds_pods_of_the_new_version_and_leaves_the_stable_ones_alone():
    start = values(PRODUCTION)
    before, after = shown(PRODUCTION, []), shown(PRODUCTION, canary_steps(start, NEW, 10))
    assert len(before) == 1
    assert len(after) == 2
    ((stable, template),) = before.items()
    assert after[stable] == template
    (canary,) = (text for name, text in after.items() if name != stable)
    assert NEW in canary


def test_behind_a_route_the_pods_come_before_the_requests():
    start = values(ROUTED, "canary.enabled=false")
    steps = canary_steps(start, NEW, 20)
    weights = []
    for count in (1, 2):
        (route,) = (
            o for o in objects(render(SETTINGS, start, steps[:count])) if o["kind"] == "HTTPRoute"
        )
        weights.append([one["weight"] for one in route["spec"]["rules"][0]["backendRefs"]])
    assert weights == [[100, 0], [80, 20]]


def test_promoting_rolls_all_pods_to_the_canarys_version_and_rolling_back_leaves_the_stable_one():
    now = values(ROUTED)
    version = now["canary"]["bundle"]["version"]
    promoted, back = shown(ROUTED, promote_steps(now)), shown(ROUTED, rollback_steps(now, str))
    assert len(promoted) == len(back) == 1
    assert version in next(iter(promoted.values()))
    stable = next(text for name, text in shown(ROUTED, []).items() if name in back)
    assert next(iter(back.values())) == stable
    assert version not in stable


def test_without_a_canary_there_is_nothing_to_promote_and_the_way_back_is_the_version_before():
    now = values(ROUTED, "canary.enabled=false")
    with pytest.raises(UserError, match="no canary to promote"):
        promote_steps(now)
    assert rollback_steps(now, {OLD: "2026-01-24"}.__getitem__) == [
        Step({"bundle": {"version": "2026-01-24"}})
    ]


def test_the_command_is_a_list_of_words_whatever_the_version_is_called():
    nasty = '1"; rm -rf / #'
    (step,) = canary_steps(values(PRODUCTION), nasty, 10)
    words = step.command(SETTINGS)
    assert words[:4] == ["helm", "upgrade", "shop", str(SERVING)]
    assert r'canary.bundle.version="1\"; rm -rf / #"' in words
    with pytest.raises(UserError, match="version"):  # the chart's schema knows what a version is
        render(SETTINGS, values(PRODUCTION), [step])


class Cluster:
    """Stands in for the connection: there is no cluster here. It keeps what Helm's library is asked for."""

    asked: ClassVar = []
    now: ClassVar = {}

    def __init__(self, namespace):
        self.namespace = namespace

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def get_values(self, release, all_values, revision=None):
        assert all_values
        if release != "shop":
            raise helm_python.HelmNotFoundError("release: not found")
        if revision is None:
            return self.now
        return {"bundle": {"version": f"version-{revision}" if revision < 3 else OLD}}

    def history(self, release):
        statuses = ["superseded", "failed", "superseded", "deployed"]
        return [{"revision": n, "status": status} for n, status in enumerate(statuses, start=1)]

    def upgrade(self, chart, release, change, **options):
        self.asked.append(("upgrade", self.namespace, release, change, options))


@pytest.fixture
def cluster(monkeypatch):
    Cluster.asked, Cluster.now = [], values(ROUTED)
    sdk = type(
        "Sdk",
        (),
        {"Config": Cluster, "Chart": helm_python.Chart, "HelmError": helm_python.HelmError},
    )
    monkeypatch.setattr(helm, "_sdk", lambda: sdk)
    return Cluster


def run(*words):
    return CliRunner().invoke(app, ["rollout", *words])


def test_each_command_asks_the_cluster_for_its_steps_and_waits(cluster):
    assert run("promote", "--release", "shop", "-n", "recommender").exit_code == 0
    cluster.now = values(ROUTED, "canary.enabled=false")
    assert run("rollback", "--release", "shop", "-n", "recommender").exit_code == 0
    done = run("canary", NEW, "--release", "shop", "-n", "recommender", "--weight", "20")
    assert done.exit_code == 0
    assert "helm upgrade shop" in done.stdout
    (kind, namespace, release, change, options), back, *canary = cluster.asked
    assert (kind, namespace, release) == ("upgrade", "recommender", "shop")
    assert change == {"canary": {"enabled": False}, "bundle": {"version": "2026-02-07"}}
    assert options == {
        "reuse_values": True,
        "rollback_on_failure": True,
        "wait": "watcher",
        "timeout": 1200,
    }
    # Of the revisions before, the second has failed and the third served what is served now.
    assert back[3] == {"bundle": {"version": "version-1"}}
    assert [asked[3]["canary"]["weight"] for asked in canary] == [0, 20]


def test_a_release_that_is_not_there_is_an_error_that_names_it(cluster):
    with pytest.raises(UserError, match=r"release other in namespace default: .*not found"):
        Helm(RolloutSettings(release="other")).values()


def test_without_a_cluster_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="release shop in namespace recommender"):
        Helm(SETTINGS).values()


def test_a_dry_run_prints_the_command_and_valid_objects(tmp_path):
    done = run(
        "promote",
        "--release",
        "shop",
        "--chart",
        str(SERVING),
        "--values",
        str(ROUTED),
        "--dry-run",
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("# helm upgrade shop ")
    kinds = {one["kind"] for one in yaml.safe_load_all(done.stdout) if one}
    assert {"Deployment", "Service"} <= kinds
    assert isinstance(run("promote", "--release", "shop", "--dry-run").exception, UserError)
    assert isinstance(run("rollback").exception, UserError)


@pytest.mark.parametrize("command", ["canary", "promote", "rollback"])
def test_every_command_teaches_by_example(command):
    done = run(command, "--help")
    assert done.exit_code == 0
    assert f"eager-llm rollout {command}" in done.stdout
