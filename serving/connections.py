"""Bounds on what a connection may hold and how long it may take: uvicorn itself has none.

BentoML starts uvicorn and passes no settings on, so the protocol stands where uvicorn looks for it.
"""

import asyncio
import json
import os
from http import HTTPStatus
from secrets import token_hex
from typing import Any

from uvicorn.protocols.http import auto as http_protocols
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets import auto as websocket_protocols

from serving.errors import CODES

# Of a request's first line and headers, together; what follows a chunked body counts, too.
MAX_HEAD_BYTES = 32 << 10
# From the first wait for a request until its headers are there, and until its body is.
HEAD_SECONDS = 10.0
BODY_SECONDS = 20.0
MAX_CONNECTIONS = 2048
# Uvicorn's own variable: whose X-Forwarded-For is believed. Its default believes loopback.
TRUSTED_PROXIES = "FORWARDED_ALLOW_IPS"


def bound_connections() -> None:
    """Let uvicorn serve with `BoundedProtocol`, without websockets, and trust no proxy by itself.

    Call it before uvicorn reads its configuration.
    """
    http_protocols.AutoHTTPProtocol = BoundedProtocol
    websocket_protocols.AutoWebSocketsProtocol = None
    os.environ.setdefault(TRUSTED_PROXIES, "")


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds: long headers are refused, half-sent requests are closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, or refuse one connection too many."""
        super().connection_made(transport)
        self._head_bytes = 0
        self._is_in_body = False
        self._has_progressed = False
        self._timer: asyncio.TimerHandle | None = None
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse("overloaded", f"more than {MAX_CONNECTIONS} connections are open")
            return
        self._start_timer(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in, as long as a request's head stays within its bound."""
        if self.transport.is_closing():
            return
        self._has_progressed = False
        is_idle = self._timer is None
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._has_progressed:
            self._head_bytes = 0
        else:
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            message = f"the request's head has more than {MAX_HEAD_BYTES} bytes"
            self._refuse("headers_too_large", message)
        elif is_idle and self._timer is None and not self._has_progressed:
            # The first bytes of the next request on this connection.
            self._start_timer(HEAD_SECONDS)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._is_in_body = False
        self._start_timer(HEAD_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what is sent behind a body is read by nobody."""
        if not self._is_in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Pass the request on, and wait for its body."""
        self._has_progressed = True
        self._is_in_body = True
        self._start_timer(BODY_SECONDS)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body in."""
        self._has_progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._has_progressed = True
        self._stop_timer()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the shape of all errors."""
        self._refuse("invalid_http", CODES["invalid_http"][1])

    def _refuse(self, code: str, message: str) -> None:
        """Answer with an error, where no answer is on its way, and close the connection."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering:
            self.transport.write(error_bytes(code, message))
        self._stop_timer()
        self.transport.close()

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()


def error_bytes(code: str, message: str) -> bytes:
    """Return an error of the API as HTTP/1.1, for what reaches no application."""
    status = HTTPStatus(CODES[code][0])
    request_id = token_hex(16)
    error: dict[str, Any] = {"code": code, "message": message, "request_id": request_id}
    body = json.dumps({"error": error}).encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        "connection: close",
    ]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        lines.append("retry-after: 1")
    return "\r\n".join([*lines, "", ""]).encode() + body
