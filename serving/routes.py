"""The HTTP interface: paths, their schemas, and the page."""

from pathlib import Path
from typing import Annotated, Any

import bentoml
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from serving.answers import Answers
from serving.catalogue import item_row
from serving.errors import ApiError, documented, error_of_status, validation_error
from serving.json_bodies import JsonRoute
from serving.metadata import item_metadata
from serving.schemas.answers import DescribeAnswer, EventAnswer, ItemsAnswer, SimilarAnswer
from serving.schemas.metadata import Info, ItemList, ItemMetadata, UserList
from serving.schemas.requests import (
    DescribeRequest,
    EventRequest,
    RecommendRequest,
    SearchRequest,
    SimilarRequest,
)

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"": "index.html", "app.js": "app.js", "style.css": "style.css"}
# The page loads nothing from elsewhere, and nobody may frame it.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none';"
        " form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
BODY_CODES = (
    "invalid_json",
    "invalid_request",
    "length_required",
    "body_too_large",
    "unsupported_media_type",
)
FILTER_CODES = (*BODY_CODES, "invalid_filter", "no_such_bundle")
EVENT_CODES = (
    *BODY_CODES,
    "event_in_future",
    "not_offered",
    "features_unavailable",
)
DESCRIPTION = (
    "A generative recommender: every answer is an existing item. Every error has the shape of"
    " `ErrorAnswer`, with a stable code; every answer has the header X-Request-Id."
)
ItemLimit = Annotated[int, Query(ge=1, le=100)]
TitleWords = Annotated[
    str, Query(max_length=1000, description="words of titles; the last may be a beginning")
]


def new_app() -> FastAPI:
    """Return the application; set `app.state.answers` before its first request."""
    app = FastAPI(
        title="EAGER-LLM",
        description=DESCRIPTION,
        version="1",
        openapi_url="/docs.json",
        docs_url=None,
        redoc_url=None,
        # BentoML opens the spans and Prometheus reads the metrics: FastAPI's own would cost time.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        generate_unique_id_function=lambda route: route.name,
        dependencies=[
            Depends(HTTPBearer(auto_error=False, description="where the service has an API key"))
        ],
    )
    app.router.redirect_slashes = False
    app.router.route_class = JsonRoute
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    _add_answer_routes(app)
    _add_metadata_routes(app)
    _add_page_routes(app)
    return app


def _add_answer_routes(app: FastAPI) -> None:
    @app.post("/recommend", responses=documented(*FILTER_CODES, "overloaded"), tags=["answers"])
    async def recommend(body: RecommendRequest, request: Request) -> ItemsAnswer:
        """Recommend k items for a user, or for a history of items, oldest first."""
        return await _answers(request).recommend(body)

    @app.post(
        "/search",
        responses=documented(*FILTER_CODES, "overloaded", "not_offered"),
        tags=["answers"],
    )
    async def search(body: SearchRequest, request: Request) -> ItemsAnswer:
        """Find items by words, for anybody or for someone with a history."""
        return await _answers(request).search(body)

    @app.post(
        "/describe",
        responses=documented(
            *BODY_CODES, "unknown_item", "no_such_bundle", "not_offered", "overloaded"
        ),
        tags=["answers"],
    )
    async def describe(body: DescribeRequest, request: Request) -> DescribeAnswer:
        """Let the model, its adapter off, describe an item."""
        return await _answers(request).describe(body)

    @app.post(
        "/similar",
        responses=documented(*FILTER_CODES, "unknown_item", "overloaded"),
        tags=["answers"],
    )
    async def similar(body: SimilarRequest, request: Request) -> SimilarAnswer:
        """Return the items nearest to one in the item index."""
        return await _answers(request).similar(body)

    @app.post(
        "/events",
        responses=documented(*EVENT_CODES),
        response_model_exclude_none=True,
        tags=["events"],
    )
    async def events(body: EventRequest, request: Request) -> EventAnswer:
        """Take in what a user just did; the next recommendation sees it.

        The same event again changes nothing. An item that the bundle does not know is kept.
        """
        return await _answers(request).event(body)


def _add_metadata_routes(app: FastAPI) -> None:
    @app.get("/items", responses=documented("invalid_request", "overloaded"), tags=["metadata"])
    async def items(request: Request, words: TitleWords = "", limit: ItemLimit = 20) -> ItemList:
        """Find items by the words of their titles, without the model.

        Without words, the most popular items.
        """
        return await _answers(request).items(words, limit)

    @app.get("/items/{item_id:path}", responses=documented("unknown_item"), tags=["metadata"])
    async def item(item_id: str, request: Request) -> ItemMetadata:
        """Return an item's row of the catalogue, and its path through the index."""
        bundle = _answers(request).first_bundle
        item_row(bundle, item_id)
        return item_metadata(bundle, item_id)

    @app.get("/users", responses=documented("invalid_request"), tags=["metadata"])
    async def users(request: Request, limit: ItemLimit = 20) -> UserList:
        """Return some users whose history is published beside the service.

        None where it is published elsewhere.
        """
        store = _answers(request).store
        if store is None:
            return UserList(users=[])
        deadline_seconds = store.settings.deadline_ms / 1000
        return UserList(users=await store.some_users(limit, deadline_seconds))

    @app.get("/info", responses=documented(), tags=["metadata"])
    async def info(request: Request) -> Info:
        """Return the metadata of the service and of its bundles."""
        return _answers(request).info


def _add_page_routes(app: FastAPI) -> None:
    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        """Return the metrics in the format of Prometheus."""
        client = bentoml.metrics
        return Response(client.generate_latest(), media_type=client.CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        """Send a browser to the page."""
        return RedirectResponse("ui")

    @app.get("/ui", include_in_schema=False)
    @app.get("/ui/{name}", include_in_schema=False)
    async def page(name: str = "") -> Response:
        """Return a file of the page."""
        if name not in PAGE_FILES:
            raise ApiError("not_found", "there is no such path")
        return FileResponse(PAGE / PAGE_FILES[name], headers=PAGE_HEADERS)


def _answers(request: Request) -> Answers:
    """Return what the service set when it started."""
    return request.app.state.answers


async def _on_validation_error(_: Request, error: Any) -> JSONResponse:
    return validation_error(error.errors()).response()


async def _on_api_error(_: Request, error: Any) -> JSONResponse:
    return error.response()


async def _on_http_error(_: Request, error: Any) -> Response:
    response = error_of_status(error.status_code).response()
    response.headers.update(error.headers or {})
    return response
