"""Versions that never change, one run, a recurring one: the real clients against small APIs on loopback."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "cluster"))
from fake_kube import fake_kube
from rendering import check_custom

from eager_llm.core.errors import UserError
from pipelines.cluster import submit
from pipelines.cluster.compile import MANIFESTS, TARGETS
from pipelines.cluster.runs import TOKEN_VARIABLE
from pipelines.cluster.versions import submit_version, version_name

CPU, CUDA = MANIFESTS / "recommender.yaml", MANIFESTS / "cuda" / "recommender.yaml"


@pytest.fixture
def kube(tmp_path, monkeypatch):
    with fake_kube(tmp_path) as fake:
        monkeypatch.setattr(
            "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(fake.config)
        )
        yield fake


@pytest.mark.parametrize("file", TARGETS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_is_compiled_is_what_kubeflow_defines(file):
    for found in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        check_custom(found)


def test_the_same_version_twice_is_nothing_and_another_content_is_refused(kube, tmp_path):
    name = version_name(CPU)
    assert submit_version(CPU, "shop") == [
        "Pipeline eager-llm-recommender created",
        f"PipelineVersion {name} created",
    ]
    before = json.dumps(list(kube.objects.values()), sort_keys=True)
    again = submit_version(CPU, "shop")
    assert again == [
        "Pipeline eager-llm-recommender is there already, unchanged",
        f"PipelineVersion {name} is there already, unchanged",
    ]
    changed = tmp_path / "changed.yaml"
    text = CPU.read_text(encoding="utf-8")
    changed.write_text(
        text.replace("image: eager-llm/python-training:", "image: eager-llm/other:"),
        encoding="utf-8",
    )
    assert version_name(changed) == name
    with pytest.raises(
        UserError, match=f"PipelineVersion {name} is there already with another pipelineSpec"
    ):
        submit_version(changed, "shop")
    assert json.dumps(list(kube.objects.values()), sort_keys=True) == before
    assert not {method for method, _ in kube.asked} - {"GET", "POST"}, (
        "nothing is ever changed in place"
    )
    assert len(submit_version(CUDA, "shop")) == 2, "another content has another name"


def test_a_cluster_that_knows_no_versions_or_refuses_is_named(kube):
    kube.unknown.add("pipelines")
    with pytest.raises(UserError, match="namespace shop knows no Pipeline"):
        submit_version(CPU, "shop")
    kube.unknown.clear()
    kube.forbidden.add("pipelineversions")
    with pytest.raises(UserError, match=r"PipelineVersion .* refused: 403"):
        submit_version(CPU, "shop")


class FakeKubeflow(ThreadingHTTPServer):
    """Kubeflow Pipelines' API, as far as runs need it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs, self.recurring, self.versions = [], {}, []
        self.state, self.tokens = "SUCCEEDED", set()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        fake, url = self.server, urlsplit(self.path)
        fake.tokens.add(self.headers.get("Authorization"))
        place = url.path.removeprefix("/apis/v2beta1/")
        if place == "pipelines":
            asked = json.loads(parse_qs(url.query)["filter"][0])["predicates"][0]["stringValue"]
            assert asked == "eager-llm-recommender"
            return self.answer({"pipelines": [{"pipeline_id": "p", "display_name": asked}]})
        if place == "pipelines/p/versions":
            rows = [
                {"pipeline_version_id": f"v{n}", "display_name": name}
                for n, name in enumerate(fake.versions)
            ]
            return self.answer({"pipeline_versions": rows})
        if place.startswith("runs/"):
            return self.answer({**fake.runs[-1], "state": fake.state})
        if place == "recurringruns":
            return self.answer({"recurringRuns": list(fake.recurring.values())})
        if place.startswith("experiments"):
            return self.answer(
                {"experiments": [{"experiment_id": "e", "display_name": "eager-llm"}]}
            )
        return self.answer({})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/recurringruns"):
            made = {**body, "recurring_run_id": f"r{len(self.server.recurring)}"}
            self.server.recurring[made["recurring_run_id"]] = made
        else:
            made = {**body, "run_id": "run-1"}
            self.server.runs.append(made)
        return self.answer(made)

    def do_DELETE(self):
        self.server.recurring.pop(self.path.rsplit("/", 1)[1])
        return self.answer({})


@pytest.fixture
def kubeflow():
    with FakeKubeflow() as fake:
        thread = threading.Thread(target=fake.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        fake.versions = ["older", version_name(CPU)]
        fake.host = f"http://127.0.0.1:{fake.server_port}"
        yield fake
        fake.shutdown()
        thread.join()


def test_one_run_carries_the_version_and_its_settings(kubeflow, capsys):
    arguments = [
        "--host",
        kubeflow.host,
        "--source",
        "s3://shop/log",
        "--set",
        "ray.cluster=rayjob",
        "--log-version",
        "monday",
    ]
    assert submit.main(["run", *arguments, "--root", "s3://shop/runs", "--wait"]) == 0
    assert "run run-1: SUCCEEDED" in capsys.readouterr().out
    (run,) = kubeflow.runs
    assert run["pipeline_version_reference"] == {"pipeline_id": "p", "pipeline_version_id": "v1"}
    given = run["runtime_config"]["parameters"]
    assert set(given) == set(compiled_inputs())
    assert (
        given["settings"]["ray"]["cluster"] == given["index_settings"]["ray"]["cluster"] == "rayjob"
    )
    assert given["source"] == "s3://shop/log"
    assert given["fingerprint"].endswith("-monday")
    assert given["checkpoints"] == "/store/checkpoints"
    assert run["runtime_config"]["pipeline_root"] == "s3://shop/runs"
    assert kubeflow.tokens == {None}
    kubeflow.state = "FAILED"
    assert submit.main(["run", *arguments, "--wait"]) == 1


def test_earlier_names_of_options_are_accepted_and_told(capsys):
    options = submit.command_parser().parse_args(["run", "--pipeline", "nightly", "--mark", "may"])
    assert (options.pipeline, options.log_version) == ("refresh", "may")
    assert "--pipeline nightly is called refresh now" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        submit.main(["run", "--help"])
    help_text = capsys.readouterr().out
    assert "nightly" not in help_text
    assert "--mark" not in help_text


def test_a_pod_proves_who_it_is(kubeflow, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("of-the-audience")
    monkeypatch.setenv(TOKEN_VARIABLE, str(tmp_path / "token"))
    assert submit.main(["recurring", "--host", kubeflow.host, "--delete"]) == 0
    assert kubeflow.tokens == {"Bearer of-the-audience"}


def compiled_inputs():
    _, version = yaml.safe_load_all(CPU.read_text(encoding="utf-8"))
    return version["spec"]["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]


def test_a_recurring_run_is_made_once_and_replaced_where_it_changed(kubeflow, capsys):
    arguments = ["recurring", "--host", kubeflow.host, "--source", "s3://shop/log"]
    assert submit.main([*arguments, "--cron", "0 0 2 * * *"]) == 0
    assert submit.main([*arguments, "--cron", "0 0 2 * * *"]) == 0
    assert "is there already, unchanged" in capsys.readouterr().out
    (run,) = kubeflow.recurring.values()
    assert run["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    assert int(run["max_concurrency"]) == 1
    assert run["runtime_config"]["parameters"]["fingerprint"].endswith("[[ScheduledTime]]")
    assert submit.main([*arguments, "--cron", "0 0 3 * * *"]) == 0
    (run,) = kubeflow.recurring.values()
    assert run["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert submit.main([*arguments, "--delete"]) == 0
    assert submit.main([*arguments, "--delete"]) == 0
    assert kubeflow.recurring == {}


def test_mistakes_are_named(kubeflow, tmp_path, capsys):
    def refused(*arguments):
        assert submit.main([*arguments]) == 2
        return capsys.readouterr().err

    assert "six fields, seconds first" in refused(
        "recurring", "--host", kubeflow.host, "--cron", "0 2 * * *"
    )
    assert "tuning.epochs = 0: must be at least 1" in refused(
        "run", "--host", kubeflow.host, "--set", "tuning.epochs=0"
    )
    assert "no such manifest; run: make manifests" in refused(
        "run", "--host", kubeflow.host, "--file", str(tmp_path / "no")
    )
    kubeflow.versions = ["older"]
    said = refused("run", "--host", kubeflow.host)
    assert (
        "is not on the cluster (there: older); run: python -m pipelines.cluster.submit version"
        in said
    )
    assert (
        submit.main(["run", "--host", kubeflow.host, "--version", "older"]) == 0
    )  # compiled for another registry
    assert "of older started" in capsys.readouterr().out
    assert "Kubeflow Pipelines at http://127.0.0.1:9 does not answer" in refused(
        "run", "--host", "http://127.0.0.1:9"
    )
