"""The layers around every request: its id and log line, and who may send how often and how much."""

import hashlib
import hmac
import logging
import math
import re
from random import getrandbits
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ApiError, error_of_status, request_id
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
        sender = _ResponseSender(scope["path"], send)
        try:
            await self.app(scope, receive, sender.send)
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
    """Sends a response on with its request id; a bare error of the server below gets the one shape.

    Attributes:
        status: of the response; 0 before it starts.
    """

    def __init__(self, path: str, send: Send) -> None:
        self.status = 0
        self._path = path
        self._send = send
        self._is_replaced = False

    async def send(self, message: Message) -> None:
        """Send one ASGI message on, or the error that replaces it."""
        if message["type"] != "http.response.start":
            if not self._is_replaced:
                await self._send(message)
            return
        self.status = message["status"]
        self._is_replaced = self._is_bare_error(message)
        if self._is_replaced:
            await self._replace(message)
        else:
            await self._start(message)

    def _is_bare_error(self, message: Message) -> bool:
        """Return whether a response is an error as plain text; the probes keep theirs."""
        headers = dict(message["headers"])
        content_type = headers.get(b"content-type", b"")
        is_text = content_type.startswith(b"text/plain")
        return self.status >= 400 and is_text and self._path not in PROBES

    async def _replace(self, message: Message) -> None:
        """Send the error of a status instead of a bare text; the header Allow stays."""
        response = error_of_status(self.status).response()
        allow = [(name, value) for name, value in message["headers"] if name == b"allow"]
        await self._start({**message, "headers": [*response.raw_headers, *allow]})
        await self._send({"type": "http.response.body", "body": response.body})

    async def _start(self, message: Message) -> None:
        """Send the start of a response with the request's id among its headers."""
        id_header = (ID_HEADER, request_id.get().encode())
        headers = [*message["headers"], id_header]
        await self._send({**message, "headers": headers})


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
        "path": path,
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
        self._rate_limiter: RateLimiter | None = None
        if settings.rate:
            self._rate_limiter = RateLimiter(settings.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or _is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        client = scope.get("client") or ("",)
        try:
            self._check_key(headers)
            self._check_rate(client[0])
            if scope["method"] == "POST":
                self._check_body(headers)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        """Raise ApiError where the service has a key and the request lacks it."""
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
        if int(length) > max_bytes:
            message = f"the request has {int(length)} bytes; at most {max_bytes} are taken"
            raise ApiError("body_too_large", message)


def _is_open(path: str) -> bool:
    """Return whether a path is answered without the key and without a bound on the rate."""
    return path in OPEN_PATHS or path.startswith("/ui/")
