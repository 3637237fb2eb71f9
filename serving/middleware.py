"""The layers around every request: its id and log line, and who may send how often and how much."""

import hashlib
import hmac
import logging
import math
import re
from random import getrandbits
from time import perf_counter
from typing import Any

from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eager_llm.core.short_text import shortened
from serving.errors import ApiError, ErrorAnswer, error_of_status, request_id
from serving.metrics import REQUESTS, SECONDS
from serving.rate_limiter import RateLimiter
from serving.settings import ServiceSettings

ID_HEADER = b"x-request-id"
ID_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
PROBES = ("/livez", "/readyz", "/healthz", "/metrics")
# The page itself holds no data: it reads its data from the API, with the key.
OPEN_PATHS = (*PROBES, "/", "/docs.json", "/ui")
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
# Of a request: the path and query, and all headers together.
MAX_TARGET_BYTES = 16 << 10
MAX_HEADERS_BYTES = 16 << 10
MAX_HEADERS = 100
LOGGED_PATH = 500
# Wrong keys that a client may send: so many at once, and then one in so many seconds.
WRONG_KEYS = 20
WRONG_KEY_SECONDS = 5
# Digits of a length that is read at all.
LONGEST_LENGTH = 18
log = logging.getLogger("eager_llm.access")


class RequestIdMiddleware:
    """Gives each request an id and one line in the log, and each error the one shape."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id.set(_id_of_request(scope))
        start = perf_counter()
        sender = _ResponseSender(send)
        try:
            _check_head(scope)
            await self.app(scope, receive, sender.send)
        except ApiError as error:
            await error.response()(scope, receive, sender.send)
        except Exception:  # Every request gets an answer, whatever failed below.
            log.exception("a fault while answering %s %s", scope["method"], scope["path"])
            if not sender.status:
                await error_of_status(500).response()(scope, receive, sender.send)
        _record(scope, sender.status, perf_counter() - start)


def _id_of_request(scope: Scope) -> str:
    """Return the client's id of a request, or a new one where it has none that is safe to log."""
    headers = dict(scope["headers"])
    client_id = headers.get(ID_HEADER, b"").decode("latin-1")
    if ID_PATTERN.fullmatch(client_id):
        return client_id
    return f"{getrandbits(128):032x}"


class _ResponseSender:
    """Sends a response on with its request id; every error gets the one shape.

    What BentoML and Starlette say in other shapes is replaced, and so is a redirect to an address
    that they make of the header Host.

    Attributes:
        status: of the response; 0 before it starts.
    """

    def __init__(self, send: Send) -> None:
        self.status = 0
        self._send = send
        # An error that waits for its body.
        self._error: Message | None = None
        self._body: Any = b""

    async def send(self, message: Message) -> None:
        """Send one ASGI message on; of an error only when all of it is there."""
        if message["type"] == "http.response.start":
            if _is_foreign_redirect(message):
                message = {**message, "status": 404, "headers": []}
            self.status = message["status"]
            if self.status < 400:
                await self._start(message)
            else:
                self._error = message
            return
        if self._error is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._send_error(self._error)

    async def _send_error(self, start: Message) -> None:
        """Send an error as it is where it has the one shape, else the error of its status."""
        self._error = None
        if not _has_the_shape(self._body):
            error = error_of_status(self.status)
            response = error.response()
            self.status = response.status_code
            kept = [(name, value) for name, value in start["headers"] if name == b"allow"]
            start = {**start, "status": self.status, "headers": [*response.raw_headers, *kept]}
            self._body = response.body
        await self._start(start)
        await self._send({"type": "http.response.body", "body": self._body})

    async def _start(self, message: Message) -> None:
        """Send the start of a response with the request's id among its headers."""
        id_header = (ID_HEADER, request_id.get().encode())
        headers = [*message["headers"], id_header]
        await self._send({**message, "headers": headers})


def _has_the_shape(body: bytes) -> bool:
    """Return whether a body is an error of the API."""
    try:
        ErrorAnswer.model_validate_json(body)
    except ValidationError:
        return False
    return True


def _is_foreign_redirect(message: Message) -> bool:
    """Return whether a response leads to a whole address; the service's own redirect does not."""
    if not 300 <= message["status"] < 400:
        return False
    location = dict(message["headers"]).get(b"location", b"")
    return b"//" in location


def _check_head(scope: Scope) -> None:
    """Raise ApiError where a request's path, query or headers are longer than any use of them."""
    target = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
    if target > MAX_TARGET_BYTES:
        message = f"the path and query have {target} bytes; at most {MAX_TARGET_BYTES} are taken"
        raise ApiError("target_too_long", message)
    headers = scope["headers"]
    size = sum(len(name) + len(value) for name, value in headers)
    if size > MAX_HEADERS_BYTES or len(headers) > MAX_HEADERS:
        message = (
            f"{len(headers)} headers with {size} bytes; at most {MAX_HEADERS} with"
            f" {MAX_HEADERS_BYTES} are taken"
        )
        raise ApiError("headers_too_large", message)


def _record(scope: Scope, status: int, seconds: float) -> None:
    """Count a request and write its line in the log; probes are logged for debugging alone."""
    path = scope["path"]
    level = logging.DEBUG
    if path not in PROBES:
        level = logging.INFO
        endpoint = _endpoint(path)
        SECONDS.labels(endpoint, "total").observe(seconds)
        REQUESTS.labels(endpoint, str(status)).inc()
    fields = {
        "method": scope["method"],
        "path": shortened(path, LOGGED_PATH),
        "status": status,
        "ms": round(1000 * seconds, 2),
    }
    log.log(level, "answered", extra=fields)


def _endpoint(path: str) -> str:
    """Return the endpoint of a path, without its parameters: a bounded set for the metrics."""
    for endpoint in ENDPOINTS:
        if path == endpoint or path.startswith(endpoint + "/"):
            return endpoint.removeprefix("/")
    return "other"


class AdmissionMiddleware:
    """Refuses requests without the key, too many of one client, and bodies that it does not take.

    A body must be JSON, with its length, and within the bound of the settings.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self.app = app
        self.settings = settings
        self._key_digest: bytes | None = None
        if settings.api_key is not None:
            key = settings.api_key.get_secret_value()
            self._key_digest = hashlib.sha256(key.encode()).digest()
        self._wrong_keys = RateLimiter(1 / WRONG_KEY_SECONDS, capacity=WRONG_KEYS)
        self._rate_limiter: RateLimiter | None = None
        if settings.rate:
            self._rate_limiter = RateLimiter(settings.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or _is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        client, *_ = scope.get("client") or ("",)
        try:
            self._check_key(headers, client)
            self._check_rate(client)
            if scope["method"] == "POST":
                self._check_body(headers)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check_key(self, headers: dict[bytes, bytes], client: str) -> None:
        """Raise ApiError where the service has a key and the request lacks it.

        The right key always passes: behind a proxy, who guesses has the address of all others.
        """
        if self._key_digest is None:
            return
        authorization = headers.get(b"authorization", b"")
        if authorization[:7].lower() == b"bearer ":
            key = authorization[7:]
        else:
            key = headers.get(b"x-api-key", b"")
        digest = hashlib.sha256(key.strip()).digest()
        # Digests have one length: the comparison takes as long for every key.
        if not hmac.compare_digest(digest, self._key_digest):
            wait = self._wrong_keys.take(client)
            if wait:
                message = "too many requests without the right key"
                raise ApiError("rate_limited", message, retry_after=math.ceil(wait))
            raise ApiError(
                "unauthorized", "send the API key as Authorization: Bearer, or as X-API-Key"
            )

    def _check_rate(self, client: str) -> None:
        """Raise ApiError where a client sends more requests than it may."""
        if self._rate_limiter is None:
            return
        wait = self._rate_limiter.take(client)
        if wait:
            message = f"more than {self.settings.rate:g} requests a second"
            raise ApiError("rate_limited", message, retry_after=math.ceil(wait))

    def _check_body(self, headers: dict[bytes, bytes]) -> None:
        """Raise ApiError where a body is not JSON, has no length, or is too large."""
        content_type = headers.get(b"content-type", b"").split(b";")[0]
        if content_type.strip().lower() != b"application/json":
            raise ApiError("unsupported_media_type", "send the request as application/json")
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            raise ApiError("length_required", "send the request with a Content-Length")
        max_bytes = self.settings.max_body_bytes
        if len(length) > LONGEST_LENGTH or int(length) > max_bytes:
            message = f"the request has more bytes than the {max_bytes} that are taken"
            raise ApiError("body_too_large", message)


def _is_open(path: str) -> bool:
    """Return whether a path is answered without the key and without a bound on the rate."""
    return path in OPEN_PATHS or path.startswith("/ui/")
