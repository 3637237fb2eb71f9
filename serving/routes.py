"""The HTTP interface: paths, their schemas, and the page."""

from pathlib import Path
from typing import Annotated, Any

import bentoml
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from serving import schemas
from serving.answers import Answers
from serving.errors import ApiError, documented, error_of_status, validation_error
from serving.metadata import bundle_facts, item_facts

PAGE = Path(__file__).parent / "page"
FILES = {"": "index.html", "app.js": "app.js", "style.css": "style.css"}
# Nothing is loaded from elsewhere, and nobody may frame the page.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
BODY = (
    "invalid_json",
    "invalid_request",
    "length_required",
    "body_too_large",
    "unsupported_media_type",
)
DESCRIPTION = (
    "A generative recommender: every answer is an existing item. Every refusal has the shape of `ErrorAnswer`, "
    "with a stable code; every answer has the header X-Request-Id."
)


def new_app() -> FastAPI:
    """Return the application; `app.state.answers` is to be set before it is asked."""
    app = FastAPI(
        title="EAGER-LLM",
        description=DESCRIPTION,
        version="1",
        openapi_url="/docs.json",
        docs_url=None,
        redoc_url=None,
        # BentoML opens the spans, Prometheus reads the metrics: a third account of each request costs time.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        generate_unique_id_function=lambda route: route.name,
        dependencies=[
            Depends(HTTPBearer(auto_error=False, description="where the service has an API key"))
        ],
    )
    app.router.redirect_slashes = False
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(ApiError, _on_refusal)
    app.add_exception_handler(HTTPException, _on_http)
    _add_questions(app)
    _add_facts(app)
    _add_page(app)
    return app


def _add_questions(app: FastAPI) -> None:
    filtered = (*BODY, "invalid_filter", "no_such_bundle", "overloaded")

    @app.post("/recommend", responses=documented(*filtered), tags=["answers"])
    async def recommend(body: schemas.RecommendRequest, request: Request) -> schemas.ItemsAnswer:
        """Recommend k items for a user, or for a history of items, oldest first."""
        return await _answers(request).recommend(body)

    @app.post("/search", responses=documented(*filtered, "not_offered"), tags=["answers"])
    async def search(body: schemas.SearchRequest, request: Request) -> schemas.ItemsAnswer:
        """Find items by words, for anybody or for someone with a history."""
        return await _answers(request).search(body)

    @app.post(
        "/describe",
        responses=documented(*BODY, "unknown_item", "no_such_bundle", "not_offered", "overloaded"),
        tags=["answers"],
    )
    async def describe(body: schemas.DescribeRequest, request: Request) -> schemas.DescribeAnswer:
        """Let the model, its adapter off, say what an item is."""
        return await _answers(request).describe(body)

    @app.post(
        "/similar",
        responses=documented(*BODY, "invalid_filter", "unknown_item", "no_such_bundle"),
        tags=["answers"],
    )
    async def similar(body: schemas.SimilarRequest, request: Request) -> schemas.SimilarAnswer:
        """Return the items nearest to one in the item index."""
        return await _answers(request).similar(body)

    @app.post(
        "/events",
        responses=documented(
            *BODY, "event_in_future", "unknown_item", "not_offered", "features_unavailable"
        ),
        tags=["events"],
    )
    async def events(body: schemas.EventRequest, request: Request) -> schemas.EventAnswer:
        """Take in what a user just did; the next recommendation sees it. The same event again changes nothing."""
        return await _answers(request).event(body)


def _add_facts(app: FastAPI) -> None:
    @app.get("/items", responses=documented("invalid_request"), tags=["facts"])
    async def items(
        request: Request,
        words: Annotated[
            str, Query(max_length=1000, description="words of titles; the last may be begun only")
        ] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> schemas.ItemList:
        """Find items of the catalogue by the words of their titles, without the model; none: the popular ones."""
        bundle = _answers(request).decoders["first"].bundle
        found = bundle.finder.find(words, limit)
        return schemas.ItemList(
            items=[schemas.ItemSummary(item_id=item, title=bundle.title(item)) for item in found]
        )

    @app.get("/items/{item_id:path}", responses=documented("unknown_item"), tags=["facts"])
    async def item(item_id: str, request: Request) -> schemas.ItemFacts:
        """Return what the bundle knows of an item."""
        bundle = _answers(request).decoders["first"].bundle
        if item_id not in bundle.recommender.index.rows:
            raise ApiError("unknown_item", f"the bundle knows no item {item_id!r}", "item_id")
        return item_facts(bundle, item_id)

    @app.get("/users", responses=documented("invalid_request"), tags=["facts"])
    async def users(
        request: Request, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> schemas.UserList:
        """Return some users whose history is published beside the service; none where it is elsewhere."""
        store = _answers(request).store
        return schemas.UserList(users=store.some_users(limit) if store else [])

    @app.get("/info", responses=documented(), tags=["facts"])
    async def info(request: Request) -> schemas.Info:
        """Return what answers here."""
        answers = _answers(request)
        metadata = {
            place: bundle_facts(decoder.bundle) for place, decoder in answers.decoders.items()
        }
        return schemas.Info(
            first=metadata["first"],
            second=metadata.get("second"),
            users=answers.store is not None,
            describe=answers.settings.describe,
            deadline_ms=answers.settings.deadline_ms,
        )


def _add_page(app: FastAPI) -> None:
    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        client = bentoml.metrics
        return Response(client.generate_latest(), media_type=client.CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("ui")

    @app.get("/ui", include_in_schema=False)
    @app.get("/ui/{name}", include_in_schema=False)
    async def page(name: str = "") -> Response:
        if name not in FILES:
            raise ApiError("not_found", "there is no such path")
        return FileResponse(PAGE / FILES[name], headers=PAGE_HEADERS)


def _answers(request: Request) -> Answers:
    return request.app.state.answers


async def _on_validation(_: Request, error: Any) -> JSONResponse:
    return validation_error(error.errors()).response()


async def _on_refusal(_: Request, error: Any) -> JSONResponse:
    return error.response()


async def _on_http(_: Request, error: Any) -> Response:
    response = error_of_status(error.status_code).response()
    response.headers.update(error.headers or {})
    return response
