"""The two original endpoints: one-shot generation and streaming chat, both with form bodies."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from quern.api.shared.errors import validation_error
from quern.api.shared.fields import MOST_STOPS, StopText
from quern.api.shared.form_body import URLENCODED, FormFields, read_form
from quern.api.shared.headers import CallerDep
from quern.api.shared.openapi import EVENTS, PLAIN_TEXT
from quern.api.shared.raw_text import TurnTextResponse
from quern.api.shared.request_turns import wait_until_ended
from quern.api.shared.sampling_fields import with_sampling
from quern.api.shared.services import Services, ServicesDep
from quern.config import GenerationSettings
from quern.sampling import PLAIN, Limits, SamplingParams
from quern.turns.request import Caller, ChatInput, TurnRequest
from quern.turns.turn import Turn
from quern.types import Message, Role

router = APIRouter(prefix="/v1/code", tags=["code"])

FORM_TYPES = (URLENCODED, "multipart/form-data")
SEND_A_PROMPT = (
    "Send the form field `prompt` with some text in it (Content-Type: application/x-www-form-urlencoded), for example "
    "prompt=Write+a+bubble+sort."
)


class PromptForm(BaseModel):
    """The form field that must be there."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(description="What to write, in any language.")


class GenerateForm(with_sampling(PromptForm, PLAIN, seed=Limits(ge=0))):
    """The form fields of both endpoints. Unset ones take the server's defaults."""

    stop: list[StopText] = Field(
        default_factory=list[str],
        max_length=MOST_STOPS,
        description="Texts that end the answer; the field may be repeated.",
    )

    def sampling(self, defaults: GenerationSettings) -> SamplingParams:
        """These values over the defaults."""
        return defaults.sampling(**self.model_dump(include={*PLAIN}))


Form = TypeVar("Form", bound=GenerateForm)


class ChatForm(GenerateForm):
    """Those of the chat."""

    conversation_id: str | None = Field(
        default=None, description="Absent on a conversation's first request, required on every later one."
    )


async def _read_form(request: Request, model: type[Form], services: Services) -> Form:
    """Parse and check a form body, with a sentence for each thing that is wrong with it."""
    if not request.headers.get("content-type", "").lower().startswith(FORM_TYPES):
        raise validation_error(("body", "prompt"), "missing", SEND_A_PROMPT, None)
    try:
        fields = _fields(await read_form(request, services.bodies, services.max_request_bytes))
    except ValueError as error:
        raise validation_error(("body",), "form_parsing", f"The form can't be read: {error}", None) from error
    try:
        parsed = model.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError([_sentence(item) for item in error.errors(include_url=False)]) from error
    if not parsed.prompt.strip():
        raise validation_error(("body", "prompt"), "missing", SEND_A_PROMPT, parsed.prompt)
    return parsed


def _fields(form: FormFields) -> dict[str, Any]:
    values: dict[str, Any] = dict(form)
    if "stop" in values:
        values["stop"] = [value for name, value in form if name == "stop"]
    return values


def _sentence(item: Any) -> dict[str, Any]:
    name = ".".join(str(part) for part in item["loc"])
    message = f"The form field {name} can't be used: {item['msg']}."
    if item["type"] == "missing":
        message = SEND_A_PROMPT
    elif item["type"] == "extra_forbidden":
        message = f"There is no form field {name}. Leave it out: unknown fields are refused, never ignored."
    return {"type": item["type"], "loc": ("body", *item["loc"]), "msg": message, "input": _as_json(item["input"])}


def _as_json(value: Any) -> Any:
    """What was sent, as JSON can hold it; null for an uploaded file."""
    return None if isinstance(value, UploadFile) else value


async def generate_form(request: Request, services: ServicesDep) -> GenerateForm:
    """The body of a one-shot request."""
    return await _read_form(request, GenerateForm, services)


async def chat_form(request: Request, services: ServicesDep) -> ChatForm:
    """The body of a chat request."""
    return await _read_form(request, ChatForm, services)


def _form_body(model: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {FORM_TYPES[0]: {"schema": model.model_json_schema()}}}}


@router.post("/generate", openapi_extra=_form_body(GenerateForm), response_model=None, responses=PLAIN_TEXT)
async def generate(
    request: Request, form: Annotated[GenerateForm, Depends(generate_form)], services: ServicesDep, caller: CallerDep
) -> Response:
    """One prompt, one answer, no memory. With `Accept: text/plain` the answer streams as plain text."""
    turn = await _start(form, services, caller, remember=False)
    if request.headers.get("accept", "").strip().lower() == "text/plain":
        return TurnTextResponse(turn, media_type="text/plain")
    await wait_until_ended([turn], request)
    return JSONResponse({"status": "success", "result": turn.answer().text})


@router.post("/chat_stream", openapi_extra=_form_body(ChatForm), response_model=None, responses=EVENTS)
async def chat_stream(
    form: Annotated[ChatForm, Depends(chat_form)], services: ServicesDep, caller: CallerDep
) -> Response:
    """A turn of a conversation, streamed as raw text. The first one begins with `conversation_id:<UUID>` and `---`."""
    turn = await _start(form, services, caller, remember=True, conversation_id=form.conversation_id)
    preamble = "" if form.conversation_id is not None else f"conversation_id:{turn.conversation_id}\n---\n"
    return TurnTextResponse(turn, media_type="text/event-stream", preamble=preamble)


async def _start(
    form: GenerateForm, services: Services, caller: Caller, *, remember: bool, conversation_id: str | None = None
) -> Turn:
    return await services.turns.start(
        TurnRequest(
            caller,
            input=ChatInput((Message(Role.USER, form.prompt),)),
            sampling=form.sampling(services.generation),
            remember=remember,
            conversation_id=conversation_id,
            stops=tuple(form.stop),
        )
    )
