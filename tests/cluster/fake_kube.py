"""A small Kubernetes API on loopback: what the steps and the submitter ask of it, over real HTTP.

Custom objects are checked against their schemas as a cluster does. What an operator would do is a test's part.
"""

import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "charts"))
from rendering import check_custom


class FakeKube(ThreadingHTTPServer):
    """Objects by kind and name; `on_look` is called before a RayJob is read."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects, self.logs, self.pods = {}, {}, {}
        self.asked, self.deleted = [], []
        self.away, self.forbidden, self.unknown = 0, set(), set()
        self.on_look = lambda job: None
        self.on_create = lambda found: None

    def pod(self, name, node_type, phase="Running", cluster="made", **status):
        labels = {"ray.io/cluster": cluster, "ray.io/node-type": node_type}
        spec = {"containers": [{"name": "ray", "image": "i"}]}
        self.pods[name] = {
            "metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"phase": phase, **status},
        }  # fmt: skip

    def ended(self, reason, code, restarts=0):
        state = {"terminated": {"reason": reason, "exitCode": code}}
        box = {
            "name": "ray",
            "image": "i",
            "imageID": "i",
            "ready": False,
            "restartCount": restarts,
        }
        return [
            {**box, "state": {"running": {}}, "lastState": state}
            if restarts
            else {**box, "state": state}
        ]

    def submitter(self, job, *lines):
        self.pods[f"{job}-x"] = {
            "metadata": {"name": f"{job}-x", "labels": {"job-name": job}},
            "spec": {"containers": []},
        }
        self.logs[f"{job}-x"] = [
            f"2026-01-31T12:00:{number:02d}.5Z {line}" for number, line in enumerate(lines)
        ]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header(
            "Content-Type", "text/plain" if isinstance(value, str) else "application/json"
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, message):
        self.answer({"kind": "Status", "code": status, "message": message}, status)

    def handle_any(self):
        fake, url = self.server, urlsplit(self.path)
        parts, query = url.path.strip("/").split("/"), parse_qs(url.query)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        fake.asked.append((self.command, url.path))
        if fake.away:
            fake.away -= 1
            return self.refuse(503, "the server is currently unable to handle the request")
        plural, *rest = parts[parts.index("namespaces") + 2 :]
        if plural in fake.forbidden:
            return self.refuse(403, f'cannot {self.command} resource "{plural}"')
        if plural in fake.unknown:
            return self.refuse(404, "the server could not find the requested resource")
        if plural == "pods":
            return self.pods(rest, query)
        return self.objects(plural, rest, body)

    do_GET = do_POST = do_DELETE = handle_any

    def pods(self, rest, query):
        fake = self.server
        if rest:
            return self.answer("\n".join(fake.logs.get(rest[0], [])) + "\n")
        key, _, value = query["labelSelector"][0].partition("=")
        found = [pod for pod in fake.pods.values() if pod["metadata"]["labels"].get(key) == value]
        return self.answer({"kind": "PodList", "apiVersion": "v1", "items": found})

    def objects(self, plural, rest, body):
        fake = self.server
        if self.command == "POST":
            name = body["metadata"]["name"]
            if (plural, name) in fake.objects:
                return self.refuse(409, f'{plural} "{name}" already exists')
            try:
                check_custom(body)
            except jsonschema.ValidationError as error:
                return self.refuse(422, f"{name} is invalid: {error.message[:300]}")
            fake.objects[plural, name] = body
            fake.on_create(body)
            return self.answer(body, 201)
        if not rest:
            return self.answer(
                {"items": [found for (kind, _), found in fake.objects.items() if kind == plural]}
            )
        found = fake.objects.get((plural, rest[0]))
        if found is None:
            return self.refuse(404, f'{plural} "{rest[0]}" not found')
        if self.command == "DELETE":
            fake.deleted.append(rest[0])
            return self.answer(fake.objects.pop((plural, rest[0])))
        if plural == "rayjobs":
            fake.on_look(found)
        return self.answer(found)


@contextmanager
def fake_kube(folder, namespace="shop"):
    """Yield the API while it runs, and point KUBECONFIG's file in `folder` at it."""
    with FakeKube() as fake:
        thread = threading.Thread(target=fake.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{fake.server_port}"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}],
            "users": [{"name": "fake", "user": {"token": "none"}}],
        }  # fmt: skip
        fake.config = folder / "kubeconfig"
        fake.config.write_text(yaml.safe_dump(config))
        try:
            yield fake
        finally:
            fake.shutdown()
            thread.join()
