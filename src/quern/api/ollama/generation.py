"""`POST /api/chat` and `POST /api/generate`."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from quern.api.ollama.answers import AnswerLines, ChatLines, GenerateLines
from quern.api.ollama.catalog import named
from quern.api.ollama.requests import ChatRequest, GenerateRequest, TextRequest
from quern.api.shared.headers import CallerDep, no_conversation_header
from quern.api.shared.openapi import JSON_LINES
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import name_ignored, wait_until_ended
from quern.api.shared.services import Services, ServicesDep
from quern.api.shared.sse import EventStreamResponse
from quern.turns.request import TurnRequest

router = APIRouter(
    route_class=JsonRoute, prefix="/api", tags=["ollama"], dependencies=[Depends(no_conversation_header)]
)


class LinesResponse(EventStreamResponse):
    """Lines of JSON."""

    media_type = "application/x-ndjson"


@router.post("/chat", response_model=None, responses=JSON_LINES)
async def chat(request: Request, body: ChatRequest, services: ServicesDep, caller: CallerDep) -> Response:
    """An answer to messages, streamed unless `stream` is false."""
    model = await named(services, body.model)
    lines = ChatLines(body.model or model.name)
    return await _answer(request, body, services, lines, body.turn(caller, services.generation))


@router.post("/generate", response_model=None, responses=JSON_LINES)
async def generate(request: Request, body: GenerateRequest, services: ServicesDep, caller: CallerDep) -> Response:
    """An answer to a prompt, a text continued (`raw`), or a gap filled (`suffix`)."""
    model = await named(services, body.model)
    lines = GenerateLines(body.model or model.name)
    encoded = None
    if body.continues:
        encoded = await services.bodies.encoded(request, lambda: body.encode(model.tokens))
    return await _answer(request, body, services, lines, body.turn(caller, encoded, services.generation))


async def _answer(
    request: Request, body: TextRequest, services: Services, lines: AnswerLines, asked: TurnRequest | None
) -> Response:
    if asked is None:
        return JSONResponse(lines.nothing("unload" if body.unloads else "load"))
    turn = await services.turns.start(asked)
    name_ignored(request, [turn])
    if body.stream:
        return LinesResponse(lines, [turn.log], [turn])
    ends = await wait_until_ended([turn], request)
    return JSONResponse(lines.whole(turn.log.events, ends[0]))
