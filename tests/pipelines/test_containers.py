"""Steps in containers: what is kept of the engine's events, and the graph that the laptop runs."""

import io
import json

import pytest
from kubernetes.utils.quantity import parse_quantity

from eager_llm.core.errors import UserError
from eager_llm.settings import Settings
from pipelines.graphs.placement import ENVIRONMENT, STEPS, Target, compiled_for
from pipelines.graphs.recommender import recommender
from pipelines.runners import local
from pipelines.runners.docker import Containers, StepRun, table
from pipelines.runners.output import StepOutput


def event(action, moment, **metadata):
    return {
        "id": "a1",
        "Action": action,
        "timeNano": moment * 10**9,
        "Actor": {"Attributes": metadata},
    }


def watched(*events, limit="300Mi"):
    """The row of one step after these events."""
    containers = Containers()
    run = StepRun("build_index", "an/image:1", "65532:65532", limit, 100.0)
    containers.runs.append(run)
    containers._by_id["a1"] = run
    containers._events = events
    containers._listen()
    return run


def test_an_end_without_a_word_is_explained_where_memory_was_short():
    run = watched(event("oom", 103), event("die", 104, exitCode="137"))
    assert (run.exit_status, run.seconds) == (137, 4.0)
    assert run.failure == (
        "build_index: out of memory: the system ended it (status 137) at the 300Mi of its container. "
        "Give it more: memory_limit of build_index in pipelines/graphs/placement.py, then `make manifests`"
    )
    assert "out of memory" in table([run])


def test_a_lost_worker_that_was_replaced_is_no_failure():
    run = watched(event("oom", 103), event("die", 104, exitCode="0"))
    assert not run.failure
    assert "out of memory" not in table([run])


def test_a_step_that_said_why_it_failed_is_left_its_word():
    run = watched(event("die", 101, exitCode="1"))
    assert (run.exit_status, run.failure) == (1, "")


def test_events_of_other_containers_are_not_counted():
    run = watched({**event("die", 104, exitCode="0"), "id": "b2"})
    assert run.exit_status is None


def test_no_step_requests_more_than_its_limit():
    for row in STEPS.values():
        assert parse_quantity(row.memory) <= parse_quantity(row.memory_limit)
        assert parse_quantity(row.cpu[0]) <= parse_quantity(row.cpu[1])


def test_without_an_engine_the_run_says_so(tmp_path, monkeypatch):
    pytest.importorskip("docker", reason="the Python package docker is not installed")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(UserError, match="no Docker engine answers"):
        local.run("demo", "none", tmp_path, Settings(), Containers())


def test_what_a_step_says_is_passed_on_and_what_kfp_says_of_itself_is_not():
    told = io.StringIO()
    readable = StepOutput(told)
    # A container's lines come many at once, a process's one by one.
    readable.write('[KFP Executor 9 INFO]: Got executor_input:\n{\n    "inputs": {}\n}\n')
    readable.write("  stage-1: 10%\n")
    readable.write('\n{"a step": "may print JSON"}\n')
    assert told.getvalue() == '  stage-1: 10%\n\n{"a step": "may print JSON"}\n'


def test_the_laptop_runs_the_same_graph_without_waiting():
    here, there = (
        compiled_for(recommender, Target("laptop")).pipeline_spec,
        recommender.pipeline_spec,
    )
    assert list(here.root.dag.tasks) == list(there.root.dag.tasks)
    assert here.components == there.components
    assert not any(task.HasField("retry_policy") for task in here.root.dag.tasks.values())
    for executor in here.deployment_spec["executors"].values():
        assert "resources" not in executor["container"]
        assert {pair["name"] for pair in executor["container"]["env"]} >= set(ENVIRONMENT)


def test_a_store_that_is_away_is_named_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    options = {
        "source": "s3://shop/log", "name": "away", "runs": str(tmp_path), "settings_file": None,
        "overrides": [], "in_images": False,
    }  # fmt: skip
    status = local.main([json.dumps(options)])
    said = capsys.readouterr().err
    assert status == 2
    assert "s3://shop/log: the folder cannot be read" in said
    assert "http://127.0.0.1:9" in said
