"""The real service and bytes on its socket: what is no HTTP, too long, or never ends."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import psutil
import pytest
from running import serving

from serving.connections import BODY_SECONDS, HEAD_SECONDS, MAX_HEAD_BYTES

HEAD = b"GET /info HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def client(service):
    return service


def connection_to(client):
    return socket.create_connection(("127.0.0.1", client.base_url.port), timeout=60)


def read(connection):
    """Return the status and the error of an answer, None and {} where there is none."""
    answer = b""
    try:
        while part := connection.recv(1 << 16):
            answer += part
    except ConnectionResetError:
        pass
    if not answer:
        return None, {}
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def sent(client, data):
    with connection_to(client) as connection:
        # An answer may come before all is sent.
        with suppress(OSError):
            connection.sendall(data)
        return read(connection)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400, "invalid_http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid_http"),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400, "invalid_http"),
        (
            HEAD + b"Connection: close\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
            431,
            "headers_too_large",
        ),
        (HEAD + b"Connection: close\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
        (HEAD + b"X: " + b"a" * (MAX_HEAD_BYTES + 1), 431, "headers_too_large"),
        (b"GET /" + b"a" * (MAX_HEAD_BYTES + 1), 431, "headers_too_large"),
    ],
)
def test_what_no_application_sees_has_the_one_shape(client, data, status, code):
    found, error = sent(client, data)
    assert (found, error["code"]) == (status, code)
    assert set(error) == {"code", "message", "request_id"}


def test_headers_without_an_end_take_no_memory(client):
    process = psutil.Process(client.process.pid)
    before = process.memory_info().rss

    def flood(kind):
        sent(client, HEAD + kind * ((50 << 20) // len(kind)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(flood, [b"a" * 1024, b"X: y\r\n", b"X: y\r\n", b": "]))
    assert process.memory_info().rss - before < 20e6
    chunks = POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
    sent(client, chunks + b"X: y\r\n" * (8 << 20))
    assert process.memory_info().rss - before < 20e6


def test_what_never_ends_is_closed(client):
    halves = {
        b"": HEAD_SECONDS,
        b"GET /in": HEAD_SECONDS,
        HEAD: HEAD_SECONDS,
        POST + b"Content-Length: 100\r\n\r\n{": BODY_SECONDS,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab": BODY_SECONDS,
    }

    def one(half):
        with connection_to(client) as connection:
            began = time.monotonic()
            connection.sendall(half)
            while connection.recv(1 << 16):
                pass  # A request without a body in it may be answered before.
            return time.monotonic() - began

    with ThreadPoolExecutor(len(halves)) as pool:
        for seconds, bound in zip(pool.map(one, halves), halves.values(), strict=True):
            assert seconds < bound + 10


def test_a_second_request_on_a_connection_that_stops_half_way_is_closed(client):
    with connection_to(client) as connection:
        connection.sendall(b"GET /items?limit=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        connection.sendall(b"GET /it")
        while connection.recv(1 << 16):
            pass
        assert time.monotonic() - began < HEAD_SECONDS + 10


def test_no_answer_leads_where_the_header_host_says(client):
    for path in ("/", "/livez/", "/ui/", "/assets", "/static_content", "/info/", "//evil.example"):
        answer = client.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
        assert "evil.example" not in str(answer.headers)
        assert answer.status_code in (307, 404), path


def test_a_client_on_this_machine_cannot_call_itself_another(run):
    with serving(run, EAGER_LLM_RATE="1") as client, httpx.Client(base_url=client.base_url) as own:
        codes = []
        for number in range(8):
            headers = {"X-Forwarded-For": f"9.9.9.{number}"}
            codes.append(own.get("/items?limit=1", headers=headers).status_code)
        assert codes[-1] == 429
