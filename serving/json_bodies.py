"""The bodies of requests: JSON in UTF-8, of which every text can be written again."""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from eager_llm.core.short_text import shortened
from serving.errors import ApiError

# An escape of half a character; two of them, in order, are a whole one.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonRoute(APIRoute):
    """A route whose body is read strictly; every fault of it is `invalid_json`."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Return the route's handler behind the reading of the body."""
        handler = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            """Read the body of a request, and handle it."""
            parsed = _ParsedRequest(request.scope, request.receive)
            try:
                body = await parsed.body()
            except ClientDisconnect:
                raise ApiError("invalid_request", "the body did not arrive whole") from None
            if body:
                parsed.value = parse_json(body)
            return await handler(parsed)

        return read_and_handle


class _ParsedRequest(Request):
    """A request whose body is parsed already."""

    value: Any = None

    async def json(self) -> Any:
        """Return the body."""
        return self.value


def parse_json(body: bytes) -> Any:
    """Return a body's value.

    Raises:
        ApiError: it is no UTF-8 or no JSON, is nested too deeply, has a number that nothing holds,
            or half of a character.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _invalid(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _invalid(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except ValueError as error:
        # Python refuses whole numbers of thousands of digits.
        raise _invalid(shortened(str(error))) from None
    if _HALF.search(body):
        _refuse_half_characters(value)
    return value


def _refuse_half_characters(value: Any) -> None:
    """Raise ApiError where a text holds half of a character: nothing can write it."""
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, dict):
            left += found.keys()
            left += found.values()
        elif isinstance(found, list):
            left += found
        elif isinstance(found, str) and not _is_writable(found):
            raise _invalid(f"{shortened(repr(found))} holds half of a surrogate pair")


def _is_writable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _invalid(cause: str) -> ApiError:
    return ApiError("invalid_json", f"the body is no JSON: {cause}")
