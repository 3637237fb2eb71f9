"""The service: `POST /recommend` answers from the bundle that EAGER_LLM_BUNDLE names.

EAGER_LLM_FEATURES, where set, names the folder of the published features; users are then looked up
in the online store. Without it only histories of item ids can be asked for.
"""

import logging
import os
from pathlib import Path
from typing import Any

import bentoml
import torch
from bentoml.exceptions import InvalidArgument

from eager_llm.bundle import Bundle
from eager_llm.catalogue.features import FOLDER_VARIABLE, Features
from eager_llm.decoding.filters import Filter
from eager_llm.decoding.recommender import Request
from eager_llm.errors import UserError
from serving.schemas import RecommendedItem, RecommendRequest, RecommendResponse

BUNDLE_VARIABLE = "EAGER_LLM_BUNDLE"
REPOSITORY = Path(__file__).resolve().parents[1] / "feature_repo"
MAX_BODY_BYTES = 1 << 20
log = logging.getLogger("eager_llm.serving")


class JsonBodyOnly:
    """ASGI middleware that refuses what BentoML would let through: other types, and bodies too large."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer 413, 411 or 415."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        length = headers.get(b"content-length", b"")
        if not headers.get(b"content-type", b"").startswith(b"application/json"):
            await _refuse(send, 415, "send the request as application/json")
        elif not length.isdigit():
            await _refuse(send, 411, "send the request with a Content-Length")
        elif int(length) > MAX_BODY_BYTES:
            await _refuse(send, 413, f"the request is larger than {MAX_BODY_BYTES} bytes")
        else:
            await self.app(scope, receive, send)


async def _refuse(send: Any, status: int, message: str) -> None:
    body = b'{"error": "' + message.encode() + b'"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@bentoml.service(name="eager_llm", workers=1, traffic={"timeout": 30})
class EagerLLM:
    """Recommends existing items, each once, best first."""

    def __init__(self) -> None:
        folder = os.environ.get(BUNDLE_VARIABLE)
        if not folder:
            raise RuntimeError(f"{BUNDLE_VARIABLE} must name the bundle to serve")
        self.bundle = Bundle.load(Path(folder), "cuda" if torch.cuda.is_available() else "cpu")
        features = os.environ.get(FOLDER_VARIABLE)
        self.features = Features(REPOSITORY, Path(features)) if features else None
        # A first call compiles kernels and opens the store; users should not pay for it.
        self.bundle.recommender.recommend([[]], 1)
        if self.features:
            self.features.online_history("")

    @bentoml.api(route="/recommend", input_spec=RecommendRequest)
    def recommend(self, **fields: Any) -> RecommendResponse:
        """Recommend k items for a user, or for a history of items, oldest first."""
        request = RecommendRequest(**fields)
        history, reason = self._history(request)
        known = [item for item in history if item in self.bundle.items.index]
        ignored = list(dict.fromkeys(item for item in history if item not in self.bundle.items.index))
        try:
            conditions = frozenset(filter.condition() for filter in request.filters)
            if not known:
                return self._fallback(request.k, conditions, reason or "no_known_items", ignored)
            asked = Request(known, request.k, filter=conditions, exclude_history=request.exclude_history)
            answer = self.bundle.recommender.answer([asked])[0]
        except UserError as error:
            raise InvalidArgument(str(error)) from None
        return RecommendResponse(
            items=[RecommendedItem(item_id=i, title=self.bundle.title(i), score=s) for i, s in answer.items],
            source="model",
            shortfall=answer.reason,
            ignored_items=ignored,
        )

    def _history(self, request: RecommendRequest) -> tuple[list[str], str | None]:
        """Return the history to read and, where it is empty, why."""
        if request.items is not None:
            return request.items, None if request.items else "empty_history"
        if self.features is None:
            return [], "features_unavailable"
        try:
            history = self.features.online_history(str(request.user_id))
        except Exception:  # whatever the store raises, the fallback ranking answers
            log.exception("the online store did not answer")
            return [], "features_unavailable"
        if history is None:
            return [], "unknown_user"
        return history, None if history else "empty_history"

    def _fallback(self, k: int, conditions: Filter, reason: Any, ignored: list[str]) -> RecommendResponse:
        ranking = self.bundle.fallback
        if conditions:
            recommender = self.bundle.recommender
            passes = recommender.columns.passing(conditions)
            ranking = [item for item in ranking if passes[recommender.index.rows[item]]]
        items = [RecommendedItem(item_id=i, title=self.bundle.title(i), score=None) for i in ranking[:k]]
        shortfall = None if len(items) == k else f"only {len(items)} such items are in the index"
        return RecommendResponse(
            items=items, source="fallback", reason=reason, shortfall=shortfall, ignored_items=ignored
        )


EagerLLM.add_asgi_middleware(JsonBodyOnly)  # type: ignore[attr-defined]
