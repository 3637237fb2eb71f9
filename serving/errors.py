"""The one shape of every refusal, with a stable code for each cause."""

from contextvars import ContextVar
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

# Code → status and what it means; the codes are part of the API.
CODES: dict[str, tuple[int, str]] = {
    "invalid_json": (400, "the body is no JSON"),
    "invalid_request": (400, "a field is missing, unknown or refused; `field` names it"),
    "invalid_filter": (400, "a filter does not fit the catalogue"),
    "event_in_future": (400, "an event's timestamp lies ahead of the clock"),
    "unauthorized": (401, "the API key is missing or wrong"),
    "not_found": (404, "there is no such path"),
    "unknown_item": (404, "the bundle does not know the item"),
    "no_such_bundle": (404, "the service has no second bundle"),
    "not_offered": (404, "the service was started without what is asked for"),
    "method_not_allowed": (405, "the path takes another method"),
    "length_required": (411, "the request has no Content-Length"),
    "body_too_large": (413, "the body is larger than the service takes"),
    "unsupported_media_type": (415, "the body is not sent as application/json"),
    "rate_limited": (429, "the client asks more often than it may; see Retry-After"),
    "internal": (500, "a fault of the service; its log has the request id"),
    "overloaded": (503, "too many requests wait; see Retry-After"),
    "features_unavailable": (
        503,
        "the online store did not take the event; send it again, see Retry-After",
    ),
}
request_id: ContextVar[str] = ContextVar("request_id", default="")


class ErrorDetail(BaseModel):
    """What was wrong."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    code: str = Field(
        description="stable, one for each cause", json_schema_extra={"enum": list(CODES)}
    )
    message: str = Field(description="for people")
    field: str | None = Field(default=None, description="of the request, such as filters.0.column")
    request_id: str = Field(description="also in the header X-Request-Id and in the log")


class ErrorAnswer(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail


class ApiError(Exception):
    """A request that is not answered.

    Args:
        code: one of `CODES`.
        field: which field of the request is wrong.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self, code: str, message: str, field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.field, self.retry_after = code, message, field, retry_after

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return CODES[self.code][0]

    def response(self) -> JSONResponse:
        """Return the refusal as a response."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.code == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        fault: dict[str, Any] = {"code": self.code, "message": self.message}
        fault |= {"field": self.field} if self.field else {}
        return JSONResponse(
            {"error": {**fault, "request_id": request_id.get()}}, self.status, headers
        )


def error_of_status(status: int, message: str = "") -> ApiError:
    """Return the refusal that stands for a bare HTTP status."""
    named = {
        401: "unauthorized",
        404: "not_found",
        405: "method_not_allowed",
        413: "body_too_large",
    }
    named |= {400: "invalid_request", 415: "unsupported_media_type", 503: "overloaded"}
    code = named.get(status, "internal")
    return ApiError(
        code, message or CODES[code][1], retry_after=1 if code == "overloaded" else None
    )


def validation_error(mistakes: list[Any]) -> ApiError:
    """Return the refusal of a request that does not fit its schema: the first mistake is named."""
    first = mistakes[0]
    if first["type"] == "json_invalid":
        return ApiError(
            "invalid_json",
            f"the body is no JSON: {first.get('ctx', {}).get('error', first['msg'])}",
        )
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    more = f" (and {len(mistakes) - 1} more mistakes)" if len(mistakes) > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    return ApiError("invalid_request", f"{field or 'the body'}: {message}{more}", field or None)


def documented(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the responses of an operation for OpenAPI: its own codes, and those of every request."""
    texts: dict[int | str, list[str]] = {}
    for code in ("unauthorized", "rate_limited", "internal", *codes):
        status, meaning = CODES[code]
        texts.setdefault(status, []).append(f"`{code}`: {meaning}")
    return {
        status: {"model": ErrorAnswer, "description": "; ".join(lines), **_RETRY.get(status, {})}
        for status, lines in sorted(texts.items(), key=lambda pair: str(pair[0]))
    }


_HEADER = {
    "headers": {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
}
_RETRY: dict[int | str, dict[str, Any]] = {429: _HEADER, 503: _HEADER}
