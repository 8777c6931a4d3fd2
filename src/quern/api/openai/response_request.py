"""The bodies of response requests.

Source: "Create a model response" and "Get input token counts" in OpenAI's API reference; docs/api.md has the table of
every field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, FailFast, Field, Tag

from quern.api.openai.compaction import TASK
from quern.api.openai.conversation_request import Metadata
from quern.api.openai.item_input import MOST_ITEMS, InputItem, references, steps
from quern.api.openai.items import turn_id_of
from quern.api.openai.response_includes import LOGPROBS, Includes
from quern.api.openai.response_tools import Json, ResponseTool, ToolChoice, read_tool_use
from quern.api.openai.schemas import (
    NO_FORMAT,
    SOME_FORMAT,
    JsonObjectFormat,
    NoFormat,
    TextFormat,
    format_or_none,
    with_type,
)
from quern.api.openai.service_tier import FLEX, ServiceTier
from quern.api.shared.fields import LeftOut, NoOp, RequestObject, refused
from quern.api.shared.sampling_fields import MOST_TOP_LOGPROBS, SamplingFields
from quern.api.shared.tools import MOST_TOOLS
from quern.config import GenerationSettings
from quern.errors import InvalidRequest
from quern.records import NewResponse
from quern.sampling import PARAMETERS, SamplingParams
from quern.turns.request import Caller, CallMode, ChatInput, TurnRequest, split_prefill
from quern.types import DisconnectPolicy, Item, Message, Role

PLAIN_TEXT = {"format": {"type": "text"}}


class SchemaFormat(RequestObject):
    """A JSON value of a schema, as Responses asks for it. It always holds, so `strict` changes nothing."""

    type: Literal["json_schema"]
    name: str = Field(pattern=r"^[A-Za-z0-9_\-]{1,64}$")
    schema_: Json = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None

    def schema_text(self) -> str | None:
        """The JSON schema, as text."""
        return json.dumps(self.schema_)


AnswersFormat = Annotated[
    Annotated[Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")], Tag(SOME_FORMAT)]
    | Annotated[NoFormat, Tag(NO_FORMAT)],
    Discriminator(format_or_none),
    BeforeValidator(with_type),
]


class TextSettings(RequestObject):
    """How the answer's text is to look."""

    format: AnswersFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = Field(default=None, json_schema_extra={"no_op": True})


class NamedConversation(RequestObject):
    """A conversation's id."""

    id: str


class ResponseStreamOptions(RequestObject):
    """What a stream tells besides: nothing here."""

    include_obfuscation: NoOp = None
    include_usage: NoOp = None


def _items(value: Any) -> Any:
    """A text or an item is a list of one."""
    return [] if value is None else [value] if isinstance(value, str | dict) else value


def _named(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


class PromptFields(RequestObject):
    """What makes a response's prompt."""

    input: Annotated[list[InputItem], FailFast(), Field(max_length=MOST_ITEMS), BeforeValidator(_items)] = Field(
        default_factory=list[InputItem], description="A text, or items."
    )
    model: str | None = None
    instructions: str | None = Field(default=None, description="Stand before everything else; not remembered.")
    previous_response_id: str | None = None
    conversation: Annotated[NamedConversation | None, BeforeValidator(_named)] = None
    tools: list[ResponseTool] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    truncation: Literal["auto", "disabled"] | None = Field(
        default=None, description="Nothing is ever truncated: with 'auto' too, what doesn't fit is refused."
    )
    client_metadata: NoOp = None
    image: NoOp = None
    prompt_cache_key: NoOp = None
    prompt_cache_options: NoOp = None
    prompt_cache_retention: NoOp = None
    reasoning: NoOp = None
    service_tier: ServiceTier = None

    @property
    def conversation_id(self) -> str | None:
        """The conversation that goes on."""
        return self.conversation.id if self.conversation is not None else None

    def previous_turn(self) -> str | None:
        """The turn of the response that goes on. Raises ResponseNotFound, and InvalidRequest with a conversation."""
        if self.previous_response_id is None:
            return None
        if self.conversation is not None:
            raise InvalidRequest(
                "A response continues either a conversation or another response. Send conversation or "
                "previous_response_id, not both.",
                field="previous_response_id",
            )
        return turn_id_of(self.previous_response_id)

    def references(self) -> list[str]:
        """The stored ids of the items that the input only refers to. Raises ItemNotFound."""
        return references(self.input)

    def tool_settings(self) -> dict[str, Any]:
        """What `read_tool_use` reads."""
        return {
            "tools": [tool.as_json() for tool in self.tools or () if not isinstance(tool, LeftOut)],
            "tool_choice": self.tool_choice or CallMode.AUTO.value,
            "parallel_tool_calls": self.parallel_tool_calls is not False,
        }

    def chat(self, referenced: Mapping[str, Item]) -> ChatInput:
        """What is said. `referenced`: the items behind `references`. Raises InvalidRequest."""
        continues = self.conversation is not None or self.previous_response_id is not None
        items, prefill = split_prefill(steps(self.input, referenced), alone=continues)
        if not items and not prefill and self.conversation is None:
            raise InvalidRequest("There is nothing to answer. Send a text or items as the input.", field="input")
        wanted = self.text.format if self.text is not None else None
        return ChatInput(
            items,
            instructions=self.instructions,
            prefill=prefill,
            tool_use=read_tool_use(self.tool_settings()),
            schema=wanted.schema_text() if wanted is not None else None,
            schema_field="text.format",
            items_field="input",
        )


class InputTokensRequest(PromptFields):
    """`POST /v1/responses/input_tokens`."""

    personality: NoOp = None

    def turn(self, caller: Caller, referenced: Mapping[str, Item]) -> TurnRequest:
        """A turn with that prompt. Raises ResponseNotFound or InvalidRequest."""
        return TurnRequest(
            caller,
            input=self.chat(referenced),
            sampling=SamplingParams(),
            conversation_id=self.conversation_id,
            previous_id=self.previous_turn(),
            model=self.model,
        )


class CompactRequest(PromptFields):
    """`POST /v1/responses/compact`."""

    def said(self, referenced: Mapping[str, Item]) -> tuple[Item, ...]:
        """What is to be made short, besides what led to the previous response. Raises InvalidRequest."""
        if self.conversation is not None:
            raise InvalidRequest(
                "A conversation can't be made short, only items or a response. Send its items as the input.",
                field="conversation",
            )
        items = steps(self.input, referenced)
        if not items and self.previous_response_id is None:
            raise InvalidRequest("There is nothing to make short. Send items as the input.", field="input")
        return items

    def turn(self, caller: Caller, defaults: GenerationSettings, items: tuple[Item, ...]) -> TurnRequest:
        """The turn in which the model makes it short. Raises ResponseNotFound."""
        task = Message(Role.USER, TASK)
        return TurnRequest(
            caller,
            input=ChatInput((*items, task), instructions=self.instructions, items_field="input"),
            sampling=defaults.sampling(),
            previous_id=self.previous_turn(),
            background=self.service_tier == FLEX,
            fit_answer=True,
            model=self.model,
        )


class ResponseRequest(PromptFields, SamplingFields):
    """`POST /v1/responses`."""

    max_output_tokens: int | None = PARAMETERS["max_tokens"].field(default=None)
    store: bool | None = Field(default=None, description="Whether the response can be fetched later; true by default.")
    background: bool | None = Field(default=None, description="Answer at once, and go on without the caller.")
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: Metadata | None = None
    include: Includes = None
    top_logprobs: int | None = PARAMETERS["logprobs"].field(le=MOST_TOP_LOGPROBS)
    prompt: Annotated[Any, refused("Prompts are not kept here. Send what it says as instructions and input")] = None
    access_programs: NoOp = None
    background_options: NoOp = None
    context_management: NoOp = None
    max_tool_calls: NoOp = None
    moderation: NoOp = None
    safety_identifier: NoOp = None
    user: NoOp = None

    def settings(self, defaults: GenerationSettings) -> dict[str, Any]:
        """What was asked for, as JSON: kept with the response, and shown with it."""
        sampling = self._sampling(defaults)
        unsaid = {"format"} if self.text is not None and isinstance(self.text.format, NoFormat) else None
        text = self.text.model_dump(by_alias=True, exclude_none=True, exclude=unsaid) if self.text is not None else {}
        return {
            **self.tool_settings(),
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "service_tier": FLEX if self.service_tier == FLEX else "default",
            "store": self.store is not False,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "text": {**PLAIN_TEXT, **text},
            "top_logprobs": self.top_logprobs or 0,
            "truncation": self.truncation or "disabled",
        }

    def turn(
        self, caller: Caller, defaults: GenerationSettings, referenced: Mapping[str, Item], settings: dict[str, Any]
    ) -> TurnRequest:
        """The turn that is asked for. Raises ResponseNotFound or InvalidRequest."""
        background, stored, remember = self.background is True, self.store is not False, self.conversation is not None
        if background and not stored:
            raise InvalidRequest(
                "What runs in the background is fetched later, so it has to be stored. Send store=true, or leave "
                "background out.",
                field="background",
            )
        previous = self.previous_turn()
        return TurnRequest(
            replace(caller, disconnect=DisconnectPolicy.FINISH) if background else caller,
            input=self.chat(referenced),
            sampling=self._sampling(defaults),
            remember=remember,
            conversation_id=self.conversation_id,
            previous_id=previous,
            response=NewResponse(previous, background, settings) if stored else None,
            stops=self.stops(),
            background=background or self.service_tier == FLEX,
            fit_answer=True,
            model=self.model,
        )

    def _sampling(self, defaults: GenerationSettings) -> SamplingParams:
        wanted = self.top_logprobs or (0 if LOGPROBS in (self.include or ()) else None)
        return self.sampling(defaults, max_tokens=self.max_output_tokens, logprobs=wanted)
