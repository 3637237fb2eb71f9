"""What scripts/e2e_serving.py asks the service, and what must come."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One question and what its answer must be.

    Attributes:
        expect: takes the decoded answer, returns what to show of it, raises AssertionError where it is wrong.
    """

    what: str
    method: str
    path: str
    body: dict[str, Any] | None = None
    status: int = 200
    expect: Callable[[Any], str] = lambda answer: ""


@dataclass
class Shop:
    """What the checks ask about."""

    user: str
    items: list[str]

    @property
    def event(self) -> dict[str, str]:
        """What somebody nobody has seen does."""
        return {
            "user_id": "somebody new",
            "item_id": self.items[0],
            "timestamp": "2026-01-01T08:00:00Z",
        }


def endpoint_checks(shop: Shop) -> list[Check]:
    """Every endpoint while all is well; a new endpoint gets its line here."""
    item = shop.items[0]
    history = shop.items[:3]
    visitor = shop.event["user_id"]
    explained = {"items": history, "k": 3, "explain": True}
    return [
        _get("alive", "/livez"),
        _get("ready", "/readyz"),
        _get("metrics", "/metrics", _text_with("# TYPE")),
        _recommend("a known user", {"user_id": shop.user, "k": 5}, _from_model(5)),
        _recommend("a history", {"items": history, "k": 5}, _from_model(5)),
        _recommend("an unknown user", {"user_id": "nobody"}, _fallback("unknown_user")),
        _recommend("no history", {"items": []}, _fallback("empty_history")),
        _recommend("an unknown field", {"user": shop.user}, _refused("invalid_request"), 400),
        _recommend("explained", explained, _explained),
        _post("words", "/search", {"words": "a gift", "k": 5}, _from_model(5)),
        _post("what it is", "/describe", {"item_id": item}, _from_model()),
        _post("alike", "/similar", {"item_id": item, "k": 4}, _some(4)),
        _get("an item", f"/items/{item}", lambda answer: answer["title"]),
        _get("an item that is none", "/items/none", _refused("unknown_item"), 404),
        _post("an event", "/events", shop.event, _event("added")),
        _post("it counts once", "/events", shop.event, _event("known")),
        _recommend("seen by the next", {"user_id": visitor, "k": 5}, _from_model(5)),
        _get("metadata", "/info", lambda answer: f"bundle {answer['first']['version']}"),
        _get("the page", "/ui", _text_with("<html")),
        _get("OpenAPI", "/docs.json", lambda answer: f"{len(answer['paths'])} paths"),
    ]


def without_store_checks(shop: Shop) -> list[Check]:
    """What holds while the online store is gone."""
    history = {"items": shop.items[:3], "k": 5}
    unavailable = "features_unavailable"
    return [
        _get("ready", "/readyz"),
        _recommend("a known user", {"user_id": shop.user}, _fallback(unavailable)),
        _recommend("a history", history, _from_model(5)),
        _post("an event", "/events", shop.event, _refused(unavailable), 503),
    ]


def store_back_checks(shop: Shop) -> list[Check]:
    """What holds once the store is back, without a restart of the service."""
    return [_recommend("a known user", {"user_id": shop.user, "k": 5}, _from_model(5))]


def no_time_checks(shop: Shop) -> list[Check]:
    """What holds where the decoder cannot answer before the deadline."""
    similar = {"item_id": shop.items[0], "k": 4}
    return [
        _recommend("a history", {"items": shop.items[:3], "k": 5}, _fallback("deadline")),
        _post("alike", "/similar", similar, _some(4)),
    ]


def _no_text(answer: Any) -> str:
    return ""


def _get(what: str, path: str, expect: Callable[[Any], str] = _no_text, status: int = 200) -> Check:
    return Check(what, "GET", path, None, status, expect)


def _post(
    what: str, path: str, body: dict[str, Any], expect: Callable[[Any], str], status: int = 200
) -> Check:
    return Check(what, "POST", path, body, status, expect)


def _recommend(
    what: str, body: dict[str, Any], expect: Callable[[Any], str], status: int = 200
) -> Check:
    return _post(what, "/recommend", body, expect, status)


def _text_with(words: str) -> Callable[[Any], str]:
    return lambda text: _shown(words in text, f"{len(text)} bytes")


def _shown(holds: bool, text: str) -> str:
    assert holds, text
    return text


def _from_model(k: int | None = None) -> Callable[[Any], str]:
    def check(answer: Any) -> str:
        _shown(answer["source"] == "model", answer["source"])
        return "model" if k is None else f"model: {_some(k)(answer)}"

    return check


def _some(k: int) -> Callable[[Any], str]:
    return lambda answer: _shown(len(answer["items"]) == k, f"{len(answer['items'])} items")


def _explained(answer: Any) -> str:
    return f"{len(answer['items'][0]['why']['path'])} tokens"


def _event(status: str) -> Callable[[Any], str]:
    return lambda answer: _shown(answer["status"] == status, answer["status"])


def _refused(code: str) -> Callable[[Any], str]:
    return lambda answer: _shown(answer["error"]["code"] == code, answer["error"]["code"])


def _fallback(reason: str) -> Callable[[Any], str]:
    return lambda a: _shown(
        a["source"] == "fallback" and a["reason"] == reason, f"{a['source']}: {a['reason']}"
    )
