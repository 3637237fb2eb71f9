"""What happens to every request: its id, who may ask how often and how much, its line in the log."""

import hashlib
import hmac
import logging
import math
import re
from collections import OrderedDict
from random import getrandbits
from time import monotonic, perf_counter
from typing import Any

from serving.errors import ApiError, error_of_status, request_id
from serving.metrics import REQUESTS, SECONDS
from serving.settings import ServiceSettings

ID_HEADER = b"x-request-id"
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
PROBES = ("/livez", "/readyz", "/healthz", "/metrics")
# The page itself holds no data: what it shows it asks for, with the key.
OPEN = (*PROBES, "/", "/docs.json", "/ui")
ENDPOINTS = (
    "/recommend",
    "/search",
    "/describe",
    "/similar",
    "/events",
    "/items",
    "/users",
    "/info",
    "/ui",
)
log = logging.getLogger("eager_llm.access")


class Identify:
    """Gives each request an id, one line in the log and one shape to every refusal, also to BentoML's own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(ID_HEADER, b"").decode("latin-1")
        request_id.set(given if _ID.fullmatch(given) else f"{getrandbits(128):032x}")
        begun, answer = perf_counter(), _Answer(scope, receive, send)
        try:
            await self.app(scope, receive, answer.send)
        except Exception:  # nothing below may end without an answer
            log.exception("a fault while answering %s %s", scope["method"], scope["path"])
            if not answer.status:
                await error_of_status(500).response()(scope, receive, answer.send)
        _account(scope, answer.status, perf_counter() - begun)


class _Answer:
    """Sends an answer on with its request id; a bare error of the server below gets the one shape."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.status, self._replaced = 0, False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = dict(message["headers"])
            if self.status >= 400 and headers.get(b"content-type", b"").startswith(b"text/plain"):
                self._replaced = self.scope["path"] not in PROBES
            if self._replaced:
                response = error_of_status(self.status).response()
                kept = [(name, value) for name, value in message["headers"] if name == b"allow"]
                message = {**message, "headers": [*response.raw_headers, *kept]}
                await self._begin(message)
                await self._send({"type": "http.response.body", "body": response.body})
                return
            await self._begin(message)
        elif not self._replaced:
            await self._send(message)

    async def _begin(self, message: Any) -> None:
        headers = [*message["headers"], (ID_HEADER, request_id.get().encode())]
        await self._send({**message, "headers": headers})


def _account(scope: Any, status: int, seconds: float) -> None:
    path = scope["path"]
    probe = path in PROBES
    endpoint = next(
        (name for name in ENDPOINTS if path == name or path.startswith(name + "/")), "other"
    )
    if not probe:
        SECONDS.labels(endpoint.removeprefix("/"), "total").observe(seconds)
        REQUESTS.labels(endpoint.removeprefix("/"), str(status)).inc()
    metadata = {
        "method": scope["method"],
        "path": path,
        "status": status,
        "ms": round(1000 * seconds, 2),
    }
    log.log(logging.DEBUG if probe else logging.INFO, "answered", extra=metadata)


class Limits:
    """Refuses requests without the key, too many of a client, and bodies of another kind or too large."""

    def __init__(self, app: Any, settings: ServiceSettings) -> None:
        self.app, self.settings = app, settings
        self._key = hashlib.sha256(settings.api_key.encode()).digest() if settings.api_key else None
        self._buckets = Buckets(settings.rate) if settings.rate else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in OPEN or scope["path"].startswith("/ui/"):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            self._admit(headers, scope["client"][0] if scope.get("client") else "")
            if scope["method"] == "POST":
                self._measure(headers)
        except ApiError as refusal:
            await refusal.response()(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _admit(self, headers: dict[bytes, bytes], client: str) -> None:
        if self._key:
            bearer = headers.get(b"authorization", b"")
            given = (
                bearer[7:] if bearer[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
            )
            # Digests are of one length: comparing takes as long whatever was given.
            if not hmac.compare_digest(hashlib.sha256(given.strip()).digest(), self._key):
                raise ApiError(
                    "unauthorized", "send the API key as Authorization: Bearer, or as X-API-Key"
                )
        if self._buckets and (wait := self._buckets.take(client)):
            raise ApiError(
                "rate_limited",
                f"more than {self.settings.rate:g} requests a second",
                retry_after=math.ceil(wait),
            )

    def _measure(self, headers: dict[bytes, bytes]) -> None:
        length, most = headers.get(b"content-length", b""), self.settings.max_body_bytes
        if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
            raise ApiError("unsupported_media_type", "send the request as application/json")
        if not length.isdigit():
            raise ApiError("length_required", "send the request with a Content-Length")
        if int(length) > most:
            raise ApiError(
                "body_too_large", f"the request has {int(length)} bytes; at most {most} are taken"
            )


class Buckets:
    """Token buckets, one a client, that hold two seconds' worth; the clients seen longest ago are forgotten.

    Args:
        rate: requests a second.
    """

    def __init__(self, rate: float, clients: int = 10_000) -> None:
        self.rate, self.size, self.clients = rate, max(1.0, 2 * rate), clients
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Take a token; return 0, or after how many seconds there is one."""
        now = monotonic()
        held, since = self._held.pop(client, (self.size, now))
        held = min(self.size, held + (now - since) * self.rate)
        taken = held >= 1
        self._held[client] = (held - taken, now)
        if len(self._held) > self.clients:
            self._held.popitem(last=False)
        return 0.0 if taken else (1 - held) / self.rate
