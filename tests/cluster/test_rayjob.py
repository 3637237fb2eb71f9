"""A step through KubeRay: the real client and real HTTP to a small API, whose operator is a test's script."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import yaml
from conftest import ROOT
from fake_kube import fake_kube
from tuning_inputs import write_inputs

from eager_llm.cluster import local_ray
from eager_llm.cluster.job_watch import StopSignal
from eager_llm.cluster.kube import log_timestamp
from eager_llm.cluster.rayjob import fill_template, run_rayjob
from eager_llm.cluster.step_calls import StepCall
from eager_llm.core.errors import UserError
from eager_llm.settings import RaySettings, Settings
from eager_llm.steps import remote
from eager_llm.steps.distributed import elsewhere
from eager_llm.steps.tune_model import tune

POD = {"spec": {"containers": [{"name": "ray", "image": "eager-llm/python-training:0.1.0"}]}}
CLUSTER = {
    "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": POD},
    "workerGroupSpecs": [
        {
            "groupName": "workers",
            "replicas": 2,
            "minReplicas": 0,
            "maxReplicas": 2,
            "rayStartParams": {},
            "template": POD,
        }
    ],
}
TEMPLATE = {"apiVersion": "ray.io/v1", "kind": "RayJob", "spec": {"rayClusterSpec": CLUSTER}}
QUICK = RaySettings(cluster="rayjob", poll_seconds=0.02, away_minutes=0.01, start_minutes=0.02)
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "made"}
COMPLETE = {**RUNNING, "jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


@pytest.fixture
def kube(tmp_path, monkeypatch):
    with fake_kube(tmp_path) as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.config))
        # The client reads the variable when it is imported.
        monkeypatch.setattr(
            "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(fake.config)
        )
        fake.objects["configmaps", "eager-llm-ray"] = {
            "kind": "ConfigMap", "apiVersion": "v1", "data": {"rayjob.yaml": yaml.safe_dump(TEMPLATE)},
        }  # fmt: skip
        yield fake


@pytest.fixture
def call(tmp_path):
    return StepCall(
        "index", {"tables": "s3://b/t"}, {"out": str(tmp_path / "index")}, {}, Settings().to_dict()
    )


def play(kube, *scenes):
    """Let each look at the job meet the next scene: its status, or what happens then, the last one for good."""
    left = list(scenes)

    def look(job):
        scene = left[0] if len(left) == 1 else left.pop(0)
        if callable(scene):
            scene()
        else:
            job["status"] = scene

    kube.on_look = look


def test_a_job_is_followed_to_its_end_and_taken_away(kube, call, capsys):
    kube.submitter(call.name, "epoch 1", "epoch 2")
    play(kube, {}, {"jobDeploymentStatus": "Initializing"}, RUNNING, RUNNING, COMPLETE)
    made = []
    kube.on_create = made.append
    run_rayjob(call, QUICK)
    assert kube.deleted == [call.name]
    (job,) = made
    assert job["spec"]["shutdownAfterJobFinishes"]
    assert StepCall.decode(job["spec"]["entrypoint"].split()[-1]) == call
    said = capsys.readouterr().out
    assert said.count("epoch 1") == said.count("epoch 2") == 1
    assert said.index("epoch 1") < said.index("epoch 2")
    assert said.index("Initializing") < said.index("Running") < said.index("Complete")


def test_a_name_comes_from_content_and_fits(call):
    assert replace(call).name == call.name
    assert replace(call, inputs={"tables": "s3://b/other"}).name != call.name
    assert replace(call, settings=Settings().replace(seed=1).to_dict()).name != call.name
    elsewhere = Settings().replace(ray=RaySettings(cluster="rayjob")).to_dict()
    assert replace(call, settings=elsewhere).name == call.name, (
        "where it runs is no part of what it is"
    )
    assert len(call.name) <= 47


def test_submitted_twice_the_same_job_is_followed(kube, call, capsys):
    play(kube, RUNNING, COMPLETE)
    kube.objects["rayjobs", call.name] = {
        **fill_template(yaml.safe_dump(TEMPLATE), call, QUICK),
        "status": RUNNING,
    }
    run_rayjob(call, QUICK)
    assert "is there already (Running); following it" in capsys.readouterr().out
    assert [
        method for method, path in kube.asked if method == "POST" and path.endswith("/rayjobs")
    ] == ["POST"]


def test_one_that_failed_before_is_made_anew(kube, call):
    play(kube, {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"}, RUNNING, COMPLETE)
    kube.objects["rayjobs", call.name] = fill_template(yaml.safe_dump(TEMPLATE), call, QUICK)
    run_rayjob(call, QUICK)
    assert kube.deleted == [call.name, call.name]


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (
            {
                "jobDeploymentStatus": "Failed",
                "jobStatus": "FAILED",
                "reason": "AppFailed",
                "message": "exit code 1",
            },
            r"the step failed; AppFailed \(exit code 1\)\nlast lines of its log:\n  it went wrong",
        ),
        (
            {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"},
            "it took longer than ray.hours",
        ),
        (
            {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed"},
            "KubeRay refuses the template",
        ),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "was stopped from outside"),
    ],
)
def test_a_job_that_failed_is_told_as_such(kube, call, end, message):
    kube.submitter(call.name, "it went wrong")
    play(kube, RUNNING, {**RUNNING, **end})
    with pytest.raises(UserError, match=message):
        run_rayjob(call, QUICK)
    assert kube.deleted == [call.name]


def test_a_lost_head_is_told_as_what_it_is(kube, call):
    kube.pod("made-head", "head")
    kube.submitter(call.name, "level 1 of 3")
    killed = kube.ended("OOMKilled", 137)
    play(
        kube,
        RUNNING,
        RUNNING,
        lambda: kube.pod("made-head", "head", "Failed", containerStatuses=killed),
    )
    message = r"(?s)head of the Ray cluster was lost \(pod made-head: OOMKilled, exit status 137\).*more memory.*level 1"
    with pytest.raises(UserError, match=message):
        run_rayjob(call, QUICK)
    assert kube.deleted == [call.name]


def test_a_head_that_vanished_is_lost_too(kube, call):
    kube.pod("made-head", "head")
    play(kube, RUNNING, RUNNING, kube.pods.clear)
    with pytest.raises(UserError, match="pod made-head: the pod is gone"):
        run_rayjob(call, QUICK)


def test_a_cluster_that_goes_when_its_job_is_done_is_not_lost(kube, call):
    def finish():
        kube.pods.clear()
        kube.objects["rayjobs", call.name]["status"] = COMPLETE

    kube.pod("made-head", "head")
    play(kube, RUNNING, RUNNING, finish)
    run_rayjob(call, QUICK)
    assert kube.deleted == [call.name]


def test_a_lost_worker_is_told_and_the_job_goes_on(kube, call, capsys):
    for name in ("one", "two", "three"):
        kube.pod(name, "worker")
    evicted = {"reason": "Evicted", "message": "The node was low on resource: memory."}

    def lose():
        kube.pod("one", "worker", "Failed", **evicted)
        kube.pod("two", "worker", containerStatuses=kube.ended("OOMKilled", 137, restarts=1))
        del kube.pods["three"]

    play(kube, RUNNING, RUNNING, lose, RUNNING, RUNNING, COMPLETE)
    run_rayjob(call, QUICK)
    said = capsys.readouterr().out
    assert (
        "worker pod one was lost: Evicted (The node was low on resource: memory.). Its node ran short"
        in said
    )
    assert "worker pod two was lost: OOMKilled, exit status 137. It needs more memory" in said
    assert "worker pod three was lost: the pod is gone. Its part is done again" in said
    assert said.count("was lost") == 3


def test_a_cluster_that_does_not_come_up_says_what_it_waits_for(kube, call, capsys):
    why = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes: no nvidia.com/gpu",
    }
    kube.pod("made-worker", "worker", "Pending", conditions=[why])
    play(kube, {"jobDeploymentStatus": "Initializing", "rayClusterName": "made"})
    message = r"not running after ray.start_minutes = 0.02: pod made-worker: Unschedulable: 0/3 nodes: no nvidia.com/gpu"
    with pytest.raises(UserError, match=message):
        run_rayjob(call, QUICK)
    assert capsys.readouterr().out.count("pod made-worker waits: Unschedulable") == 1
    assert kube.deleted == [call.name]


def test_no_operator_takes_it_up(kube, call):
    with pytest.raises(UserError, match="it is not taken up; is the KubeRay operator running"):
        run_rayjob(call, QUICK)


def test_a_step_that_is_told_to_end_takes_its_job_away(kube, call):
    play(kube, RUNNING)
    before = signal.getsignal(signal.SIGTERM)
    kube.on_create = lambda _: threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(StopSignal):
        run_rayjob(call, QUICK)
    assert kube.deleted == [call.name]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_short_silence_of_the_api_is_sat_out_and_a_long_one_leaves_the_job_alone(kube, call):
    def fall_silent(looks):
        kube.away = looks

    play(kube, RUNNING, lambda: fall_silent(5), RUNNING, COMPLETE)
    run_rayjob(call, QUICK)
    kube.deleted.clear()
    play(kube, RUNNING, lambda: fall_silent(10_000))
    with pytest.raises(
        UserError, match=r"answered 503: .*no answer for .*run the step again to follow it"
    ):
        run_rayjob(call, QUICK)
    assert kube.deleted == []
    assert ("rayjobs", call.name) in kube.objects
    with pytest.raises(UserError, match=r"answered 503: .*no answer for ray\.away_minutes = 0\.01"):
        run_rayjob(call, QUICK)
    kube.away = 3
    play(kube, RUNNING, COMPLETE)
    run_rayjob(call, QUICK)


def test_what_is_missing_is_named(kube, call):
    kube.forbidden.add("rayjobs")
    with pytest.raises(UserError, match="the service account may not do that: cannot POST"):
        run_rayjob(call, QUICK)
    kube.forbidden.clear()
    kube.unknown.add("rayjobs")
    with pytest.raises(UserError, match="install the KubeRay operator"):
        run_rayjob(call, QUICK)
    kube.unknown.clear()
    broken = yaml.safe_dump({**TEMPLATE, "spec": {"rayClusterSpec": {"workerGroupSpecs": []}}})
    kube.objects["configmaps", "eager-llm-ray"]["data"]["rayjob.yaml"] = broken
    with pytest.raises(
        UserError, match=r"the cluster refuses RayJob .*'headGroupSpec' is a required property"
    ):
        run_rayjob(call, QUICK)
    kube.objects["configmaps", "eager-llm-ray"]["data"]["rayjob.yaml"] = "kind: Job"
    with pytest.raises(UserError, match=r"rayjob\.yaml holds no RayJob"):
        run_rayjob(call, QUICK)
    kube.objects.clear()
    with pytest.raises(UserError, match="namespace shop has no ConfigMap of that name"):
        run_rayjob(call, QUICK)


def test_without_a_cluster_it_says_so(call, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none")
    )
    with pytest.raises(
        UserError, match="neither in a pod with a service account nor with a kubeconfig"
    ):
        run_rayjob(call, QUICK)


def test_too_few_cores_are_told_rather_than_waited_for(monkeypatch):
    import ray

    monkeypatch.setattr(local_ray, "JOIN_SECONDS", 0)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray, "init", lambda *_, **__: None)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    local_ray.start_ray(4)
    with pytest.raises(
        UserError, match="8 workers are asked for, and the Ray cluster has 4 cores for work"
    ):
        local_ray.start_ray(8)


def test_times_of_a_log_compare_as_times():
    times = [
        "2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00.12Z",
        "2026-01-31T12:00:00.123Z",
        "2026-01-31T12:00:01Z",
    ]
    assert [log_timestamp(one) for one in times] == sorted(log_timestamp(one) for one in times)
    assert len({log_timestamp(one) for one in times}) == len(times)


def operate(kube):
    """Be the operator: start the entry point as a process here, and tell of it in the job's status."""
    processes = []

    def start(job):
        command = [sys.executable, *job["spec"]["entrypoint"].split()[1:]]
        log = kube.config.with_name("job.log").open("w")
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src", "OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def look(job):
        code = processes[-1].poll()
        job["status"] = RUNNING if code is None else COMPLETE
        if code:
            job["status"] = {
                **RUNNING,
                "jobDeploymentStatus": "Failed",
                "jobStatus": "FAILED",
                "reason": "AppFailed",
            }
        kube.submitter(
            job["metadata"]["name"], *kube.config.with_name("job.log").read_text().splitlines()[:60]
        )

    kube.on_create, kube.on_look = start, look


def test_tuning_as_a_rayjob_is_tuning_here(
    kube, shop, examples, settings, tmp_path, monkeypatch, capsys
):
    """Inputs and outputs go by URI: the step sees Kubeflow's paths, the job fetches and delivers objects."""
    monkeypatch.setattr(
        "eager_llm.cluster.step_calls.MOUNTS", {f"{tmp_path}/pod/": f"file://{tmp_path}/store/"}
    )
    settings = settings.replace(threads=1, annealing=settings.annealing.replace(epochs=0), ray=QUICK.replace(shared=str(tmp_path / "x")),
        tuning=settings.tuning.replace(epochs=1, text_tasks=False, language_items=0),
    )  # fmt: skip
    (tmp_path / "store").mkdir()
    stored = write_inputs(shop, examples, settings, tmp_path / "store")
    seen = [tmp_path / "pod" / path.name for path in stored.values()]
    operate(kube)
    figures = tune(*seen, settings, tmp_path / "checkpoints", tmp_path / "pod" / "model")
    here = settings.replace(ray=RaySettings())
    assert figures == pytest.approx(
        tune(*stored.values(), here, tmp_path / "checkpoints", tmp_path / "model")
    )
    made = {
        p.relative_to(tmp_path / "model") for p in (tmp_path / "model").rglob("*") if p.is_file()
    }
    assert {
        p.relative_to(tmp_path / "store/model")
        for p in (tmp_path / "store/model").rglob("*")
        if p.is_file()
    } == made
    assert not (tmp_path / "store" / "model.answer.json").exists()
    assert list((tmp_path / "x").iterdir()) == [], "the job leaves nothing on the shared folder"
    assert "step tune on the Ray cluster" in capsys.readouterr().out


def test_what_the_step_refuses_comes_back_as_its_own_words(kube, call, tmp_path, capsys):
    call = replace(call, step="tune", inputs={"tables": f"file://{tmp_path}/none"})

    def run_here(job):
        assert remote.main(job["spec"]["entrypoint"].split()[3:]) == 2

    kube.on_create = run_here
    play(kube, RUNNING, {**RUNNING, "jobStatus": "FAILED", "reason": "AppFailed"})
    settings = Settings().replace(ray=QUICK)
    with pytest.raises(
        UserError, match=r"^file://.*/none: what the step reads cannot be read: nothing is there$"
    ):
        elsewhere(call, settings, [])
    assert list(tmp_path.glob("*.answer.json")) == []
    play(kube, RUNNING, COMPLETE)
    kube.on_create = lambda job: None
    with pytest.raises(
        UserError, match=r"ended well, but .*index\.answer\.json is not there; do both reach it"
    ):
        elsewhere(call, settings, [])
