"""What `helm test` runs: green where the service answers, red where a part of it is dead."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT

SCRIPT = ROOT / "charts" / "eager-llm-serving" / "files" / "test.py"


def run_script(address, *arguments):
    command = [sys.executable, "-c", SCRIPT.read_text().replace("sleep(1)", "sleep(0)"), address]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)


def test_it_passes_against_the_real_service(service):
    result = run_script(str(service.base_url).rstrip("/"), "users")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the model answers" in result.stdout
    assert "the online store answers" in result.stdout


@pytest.fixture
def half_dead_service():
    """A service with one dead part; its answers are those that the real one gives then."""
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        def reply(self, body):
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            self.reply({})

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            kind = "user" if "user_id" in body else "history" if body["items"] else "nothing"
            self.reply(answers[kind])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


def answer(source, reason=None):
    return {"items": [{"item_id": "a"}], "source": source, "reason": reason}


@pytest.mark.parametrize(
    ("history", "user", "message"),
    [
        (answer("fallback", "deadline"), answer("fallback", "unknown_user"), "does not answer"),
        (
            answer("model"),
            answer("fallback", "features_unavailable"),
            "the online store does not answer: features_unavailable",
        ),
    ],
    ids=["dead decoder", "dead store"],
)
def test_it_fails_where_a_part_is_dead(half_dead_service, history, user, message):
    address, answers = half_dead_service
    answers |= {"nothing": answer("fallback", "empty_history"), "history": history, "user": user}
    result = run_script(address, "users")
    assert result.returncode == 1
    assert message in result.stderr
