"""A dialect says in its own folder which paths are its own and how it tells errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

from quern.api.anthropic.errors import ANTHROPIC_ERRORS
from quern.api.shared.dialect import Dialect, Dialects
from quern.api.shared.error_styles import DETAIL_ERRORS, OPENAI_ERRORS
from quern.api.shared.errors import ErrorKind, ErrorStyle, Failure, install_error_handlers
from quern.api.shared.request_body import BodyLimit
from quern.api.shared.request_log import RequestLog
from quern.errors import ContextExceeded, EngineUnavailable, InvalidRequest
from quern.http_app import DIALECTS
from quern.obs.metrics import Metrics


class TeapotErrors(ErrorStyle):
    """A style that no other dialect has."""

    def status(self, kind: ErrorKind) -> int:
        return 418 if kind is ErrorKind.INTERNAL else 400

    def body(self, failure: Failure) -> dict[str, Any]:
        return {"teapot": failure.message, "kind": failure.kind.name, "field": failure.field}

    def response_headers(self, request_id: str) -> Mapping[str, str]:
        return {"x-teapot": request_id}


class Order(BaseModel):
    """A body with one field."""

    leaves: int


router = APIRouter(prefix="/tea")


@router.post("/brew")
async def brew(order: Order) -> dict[str, int]:
    """Fails in as many ways as there are numbers."""
    match order.leaves:
        case 0:
            raise InvalidRequest("No leaves.", field="leaves")
        case 1:
            raise EngineUnavailable("No water yet.", retry_after=7)
        case 2:
            raise ContextExceeded(3, 4, 5)
        case 3:
            raise ZeroDivisionError("the pot broke")
        case _:
            return {"cups": order.leaves}


TEA = Dialect((router,), errors=TeapotErrors(), prefixes=("/tea",))
DEEPER = Dialect((), errors=DETAIL_ERRORS, prefixes=("/tea/ceremony",))


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    """An application of two dialects, wired as the real one."""
    app = FastAPI()
    dialects = Dialects((TEA, DEEPER), default_style=OPENAI_ERRORS)
    for one in dialects.routers:
        app.include_router(one)
    install_error_handlers(app, dialects.style_of)
    app.add_middleware(BodyLimit, limit=100, style_of=dialects.style_of)
    app.add_middleware(RequestLog, dialects=dialects, count=Metrics().request_ended)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_errors_of_a_route_are_told_in_its_dialects_style(client: httpx2.AsyncClient) -> None:
    refused = await client.post("/tea/brew", json={"leaves": 0})
    assert refused.status_code == 400
    assert refused.json() == {"teapot": "No leaves.", "kind": "INVALID", "field": "leaves"}
    invalid = await client.post("/tea/brew", json={})
    assert invalid.json() == {"teapot": "The field leaves is missing. Send it.", "kind": "INVALID", "field": "leaves"}
    full = await client.post("/tea/brew", json={"leaves": 2})
    assert full.json()["kind"] == "CONTEXT_EXCEEDED"


async def test_a_wait_that_is_known_is_told_in_every_style(client: httpx2.AsyncClient) -> None:
    unavailable = await client.post("/tea/brew", json={"leaves": 1})
    assert unavailable.headers["retry-after"] == "7"


async def test_a_bug_is_told_in_the_dialects_style(client: httpx2.AsyncClient) -> None:
    broken = await client.post("/tea/brew", json={"leaves": 3})
    assert broken.status_code == 418
    assert broken.json()["teapot"] == "ZeroDivisionError: the pot broke"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [("GET", "/tea/nothing", b"", 404), ("GET", "/tea/brew", b"", 405), ("POST", "/tea/brew", b" " * 101, 400)],
)
async def test_what_no_route_answers_is_told_in_the_style_of_the_path(
    client: httpx2.AsyncClient, method: str, path: str, body: bytes, status: int
) -> None:
    response = await client.request(method, path, content=body)
    assert response.status_code == status
    assert "teapot" in response.json()


async def test_a_dialects_own_headers_come_with_every_answer_of_it(client: httpx2.AsyncClient) -> None:
    for leaves in (0, 3, 4):
        response = await client.post("/tea/brew", json={"leaves": leaves}, headers={"x-request-id": "mine"})
        assert response.headers["x-teapot"] == response.headers["x-request-id"] == "mine"
    assert "x-teapot" not in (await client.get("/elsewhere")).headers


def test_the_root_is_a_path_of_its_own_and_no_prefix_of_others() -> None:
    dialects = Dialects(DIALECTS, default_style=TeapotErrors())
    assert dialects.style_of("/") is DETAIL_ERRORS
    assert isinstance(dialects.style_of("/nowhere"), TeapotErrors)


async def test_the_longest_prefix_decides_and_other_paths_have_a_style_too(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/tea/ceremony/x")).json() == {"detail": "Not Found"}
    assert (await client.get("/coffee")).json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "style", [OPENAI_ERRORS, DETAIL_ERRORS, ANTHROPIC_ERRORS], ids=lambda style: type(style).__name__
)
@pytest.mark.parametrize("kind", ErrorKind)
def test_every_style_has_an_error_status_and_the_sentence_for_every_kind(style: ErrorStyle, kind: ErrorKind) -> None:
    assert 400 <= style.status(kind) < 600
    assert "A sentence." in str(style.body(Failure(kind, "A sentence.")))


def test_every_route_lies_below_a_prefix_of_its_own_dialect() -> None:
    dialects = Dialects(DIALECTS, default_style=TeapotErrors())
    for dialect in DIALECTS:
        for route in (route for one in dialect.routers for route in one.routes):
            assert isinstance(route, APIRoute)
            assert route.path.startswith(dialect.prefixes), f"errors of {route.path} would be told in another style"
            assert dialects.style_of(route.path) is dialect.errors
