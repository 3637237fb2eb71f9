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
    return [
        Check("alive", "GET", "/livez"),
        Check("ready", "GET", "/readyz"),
        Check(
            "metrics",
            "GET",
            "/metrics",
            expect=lambda text: _shown("# TYPE" in text, f"{len(text)} bytes"),
        ),
        Check(
            "a known user",
            "POST",
            "/recommend",
            {"user_id": shop.user, "k": 5},
            200,
            _from_model(5),
        ),
        Check(
            "a history",
            "POST",
            "/recommend",
            {"items": shop.items[:3], "k": 5},
            200,
            _from_model(5),
        ),
        Check(
            "an unknown user",
            "POST",
            "/recommend",
            {"user_id": "nobody"},
            200,
            _fallback("unknown_user"),
        ),
        Check("no history", "POST", "/recommend", {"items": []}, 200, _fallback("empty_history")),
        Check(
            "an unknown field",
            "POST",
            "/recommend",
            {"user": shop.user},
            400,
            _refused("invalid_request"),
        ),
        Check(
            "explained",
            "POST",
            "/recommend",
            {"items": shop.items[:3], "k": 3, "explain": True},
            200,
            _explained,
        ),
        Check("words", "POST", "/search", {"words": "a gift", "k": 5}, 200, _from_model(5)),
        Check("what it is", "POST", "/describe", {"item_id": shop.items[0]}, 200, _from_model()),
        Check("alike", "POST", "/similar", {"item_id": shop.items[0], "k": 4}, 200, _some(4)),
        Check("an item", "GET", f"/items/{shop.items[0]}", None, 200, lambda a: a["title"]),
        Check("an item that is none", "GET", "/items/none", None, 404, _refused("unknown_item")),
        Check("an event", "POST", "/events", shop.event, 200, _event("added")),
        Check("it counts once", "POST", "/events", shop.event, 200, _event("known")),
        Check(
            "seen by the next",
            "POST",
            "/recommend",
            {"user_id": shop.event["user_id"], "k": 5},
            200,
            _from_model(5),
        ),
        Check("facts", "GET", "/info", None, 200, lambda a: f"bundle {a['first']['version']}"),
        Check(
            "the page",
            "GET",
            "/ui",
            None,
            200,
            lambda text: _shown("<html" in text, f"{len(text)} bytes"),
        ),
        Check("OpenAPI", "GET", "/docs.json", None, 200, lambda a: f"{len(a['paths'])} paths"),
    ]


def without_store_checks(shop: Shop) -> list[Check]:
    """What holds while the online store is gone."""
    return [
        Check("ready", "GET", "/readyz"),
        Check(
            "a known user",
            "POST",
            "/recommend",
            {"user_id": shop.user},
            200,
            _fallback("features_unavailable"),
        ),
        Check(
            "a history",
            "POST",
            "/recommend",
            {"items": shop.items[:3], "k": 5},
            200,
            _from_model(5),
        ),
        Check("an event", "POST", "/events", shop.event, 503, _refused("features_unavailable")),
    ]


def store_back_checks(shop: Shop) -> list[Check]:
    """What holds once the store is back, without a restart of the service."""
    return [
        Check(
            "a known user",
            "POST",
            "/recommend",
            {"user_id": shop.user, "k": 5},
            200,
            _from_model(5),
        )
    ]


def no_time_checks(shop: Shop) -> list[Check]:
    """What holds where the decoder cannot answer before the deadline."""
    return [
        Check(
            "a history",
            "POST",
            "/recommend",
            {"items": shop.items[:3], "k": 5},
            200,
            _fallback("deadline"),
        ),
        Check("alike", "POST", "/similar", {"item_id": shop.items[0], "k": 4}, 200, _some(4)),
    ]


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
