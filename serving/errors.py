"""The errors of the API: one shape, with a stable code for each cause."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from eager_llm.core.short_text import shortened

# Code → status and meaning; the codes are part of the API.
CODES: dict[str, tuple[int, str]] = {
    "invalid_http": (400, "what was sent is no HTTP/1.1"),
    "invalid_json": (400, "the body is no JSON in UTF-8, or holds what nothing can write"),
    "invalid_request": (400, "a field is missing, unknown or refused; `field` names it"),
    "invalid_filter": (400, "a filter does not fit the catalogue"),
    "event_in_future": (400, "an event's timestamp lies ahead of the clock"),
    "unauthorized": (401, "the API key is missing or wrong"),
    "not_found": (404, "there is no such path"),
    "unknown_item": (404, "the bundle does not know the item"),
    "no_such_bundle": (404, "the service has no second bundle"),
    "not_offered": (404, "the service was started without this function"),
    "method_not_allowed": (405, "the path takes another method"),
    "length_required": (411, "the request has no Content-Length"),
    "body_too_large": (413, "the body is larger than the service takes"),
    "target_too_long": (414, "the path and query are longer than the service takes"),
    "unsupported_media_type": (415, "the body is not sent as application/json"),
    "rate_limited": (429, "the client asks more often than it may; see Retry-After"),
    "headers_too_large": (431, "the headers are more or larger than the service takes"),
    "internal": (500, "a fault of the service; its log has the request id"),
    "overloaded": (503, "too many requests wait; see Retry-After"),
    "features_unavailable": (
        503,
        "the online store did not take the event; send it again, see Retry-After",
    ),
}
# The code that stands for a bare HTTP status; other statuses are "internal".
CODE_OF_STATUS = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    414: "target_too_long",
    429: "rate_limited",
    431: "headers_too_large",
    503: "overloaded",
    504: "overloaded",
}
# Codes that any request may get.
COMMON_CODES = (
    "unauthorized",
    "target_too_long",
    "rate_limited",
    "headers_too_large",
    "internal",
)
LONGEST_FIELD = 200
LONGEST_MESSAGE = 2000
RETRY_AFTER_HEADER = {
    "headers": {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
}
# Where FastAPI found a field; people know the field itself.
KINDS_OF_CELLS = ("bool", "int", "float", "str")
LOCATIONS = ("body", "query", "path")
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
    """The body of every error."""

    error: ErrorDetail


class ApiError(Exception):
    """A request that is refused, or that failed.

    Args:
        code: one of `CODES`.
        field: which field of the request is wrong.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self, code: str, message: str, field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return CODES[self.code][0]

    def response(self) -> JSONResponse:
        """Return the error as a response."""
        headers = {}
        if self.retry_after:
            headers["Retry-After"] = str(self.retry_after)
        if self.code == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        detail = ErrorDetail(
            code=self.code,
            message=shortened(self.message, LONGEST_MESSAGE),
            field=shortened(self.field, LONGEST_FIELD) if self.field else None,
            request_id=request_id.get(),
        )
        content = {"error": detail.model_dump(exclude_none=True)}
        return JSONResponse(content, self.status, headers)


def error_of_status(status: int) -> ApiError:
    """Return the error that stands for a bare HTTP status."""
    code = CODE_OF_STATUS.get(status, "internal")
    retry_after = 1 if code in ("overloaded", "rate_limited") else None
    return ApiError(code, CODES[code][1], retry_after=retry_after)


def validation_error(faults: Sequence[Any]) -> ApiError:
    """Return the error of a request that does not fit its schema; it names the first fault.

    Args:
        faults: as pydantic reports them, at least one.
    """
    first = faults[0]
    path = [str(name) for name in first["loc"] if name not in LOCATIONS]
    if path and path[-1] in KINDS_OF_CELLS:
        # One mistake in a value is told once for each kind that it might have had.
        path.pop()
        first = {"msg": "give a text, a number, true or false"}
        faults = [first]
    field = shortened(".".join(path), LONGEST_FIELD)
    message = first["msg"].removeprefix("Value error, ")
    more = ""
    if len(faults) > 1:
        more = f" (and {len(faults) - 1} more mistakes)"
    return ApiError("invalid_request", f"{field or 'the body'}: {message}{more}", field or None)


def documented(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return an operation's error responses for OpenAPI: its own codes and the common ones."""
    meanings: dict[int, list[str]] = {}
    for code in (*COMMON_CODES, *codes):
        status, meaning = CODES[code]
        meanings.setdefault(status, []).append(f"`{code}`: {meaning}")
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted(meanings):
        response = {"model": ErrorAnswer, "description": "; ".join(meanings[status])}
        if status in (429, 503):
            response |= RETRY_AFTER_HEADER
        responses[status] = response
    return responses
