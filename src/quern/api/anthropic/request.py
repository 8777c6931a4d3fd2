"""The bodies of requests for a message, and for the count of a prompt's tokens.

Source: "Create a Message" and "Count tokens in a Message" in Anthropic's API reference; docs/api.md has the table of
every field.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, FailFast, Field, Tag

from quern.api.anthropic.input_messages import (
    InputMessage,
    check_said_now,
    items_of,
    offered_tools,
    without_billing,
)
from quern.api.anthropic.said import TextBlock, Texts
from quern.api.anthropic.tools import ClientTool, ToolChoice, use_of
from quern.api.shared.fields import (
    MOST_MESSAGES,
    JsonSchema,
    LeftOut,
    NoOp,
    RequestObject,
    refused,
    type_of,
)
from quern.api.shared.sampling_fields import Stops, empty_stops, stop_texts, with_sampling
from quern.api.shared.tools import MOST_TOOLS
from quern.config import GenerationSettings
from quern.errors import InvalidRequest
from quern.sampling import PARAMETERS, Limits, SamplingParams
from quern.turns.request import Caller, ChatInput, TurnRequest, split_prefill


class JsonFormat(RequestObject):
    """A JSON value of a schema."""

    type: Literal["json_schema"]
    schema_: JsonSchema = Field(alias="schema")


def _format(value: Any) -> str:
    return "nothing" if value == {} or isinstance(value, LeftOut) else "schema"


AskedFormat = Annotated[
    Annotated[JsonFormat, Tag("schema")] | Annotated[LeftOut, Tag("nothing")], Discriminator(_format)
]
"""A format; one that says nothing is left out, and named."""


class OutputConfig(RequestObject):
    """What the answer is like."""

    format: AskedFormat | None = None
    effort: NoOp = None
    task_budget: NoOp = None


class ThinkingEdit(RequestObject):
    """Leave out earlier thinking. Nothing of it is shown to the model anyway."""

    type: Literal["clear_thinking_20251015"]
    keep: NoOp = None


class OtherEdit(LeftOut):
    """Something else to leave out of the prompt, or to sum up, once that is long."""


def _edit(edit: Any) -> str:
    kind = type_of(edit) or getattr(edit, "type", None)
    return "thinking" if kind == "clear_thinking_20251015" else "other"


ContextEdit = Annotated[
    Annotated[ThinkingEdit, Tag("thinking")] | Annotated[OtherEdit, Tag("other")], Discriminator(_edit)
]


class ContextManagement(RequestObject):
    """What to leave out of the prompt."""

    edits: list[ContextEdit] = Field(default_factory=list[ContextEdit])


class CountTokensRequest(RequestObject):
    """`POST /v1/messages/count_tokens`: what makes up the prompt."""

    messages: Annotated[list[InputMessage], FailFast()] = Field(min_length=1, max_length=MOST_MESSAGES)
    model: str | None = None
    system: Texts = Field(default_factory=list[TextBlock], description="Text that stands before everything else.")
    tools: list[ClientTool] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    output_format: AskedFormat | None = None
    context_management: ContextManagement | None = None
    compaction: Annotated[
        None, refused("This server makes no summaries by itself. Leave it out, and ask for one in a message")
    ] = None
    thread: Annotated[
        None, refused("Nothing is kept of earlier messages. Leave it out, and send the whole conversation")
    ] = None
    betas: NoOp = None
    cache_control: NoOp = None
    speed: NoOp = None
    thinking: NoOp = None

    def chat_input(self, *, continuing: bool = False) -> ChatInput:
        """What is said to the model; `continuing`: there is more before it. Raises InvalidRequest."""
        check_said_now(self.messages)
        system = "\n".join(text for block in self.system if (text := without_billing(block.text)))
        configured = self.output_config.format if self.output_config is not None else None
        wanted = configured if isinstance(configured, JsonFormat) else self.output_format
        tools = self.tools or []
        items, prefill = split_prefill(items_of(self.messages), alone=continuing)
        return ChatInput(
            items,
            prefill=prefill,
            instructions=system or None,
            tool_use=use_of(offered_tools(tools, self.messages), self.tool_choice, tools),
            schema=json.dumps(wanted.schema_) if isinstance(wanted, JsonFormat) else None,
            schema_field="output_format" if wanted is self.output_format else "output_config.format",
            items_field="messages",
        )


SAMPLING = ("temperature", "top_p", "top_k")


class MessagesRequest(
    with_sampling(
        CountTokensRequest,
        SAMPLING,
        temperature=Limits(le=1),
        top_k=Limits(ge=-1, description="Sample from the k likeliest tokens; 0 and -1 are off."),
    )
):
    """`POST /v1/messages`."""

    max_tokens: int = PARAMETERS["max_tokens"].field(
        default=..., ge=0, description="Most tokens of the answer; with 0 the prompt is read into the cache, no more."
    )
    stop_sequences: Stops = Field(default_factory=list[str])
    stream: bool | None = None
    billing_policy: NoOp = None
    diagnostics: NoOp = None
    fallback_credit_token: NoOp = None
    fallbacks: NoOp = None
    inference_geo: NoOp = None
    metadata: NoOp = None
    service_tier: NoOp = None

    def ignored(self) -> Sequence[str]:
        """See `RequestObject.ignored`."""
        return [*super().ignored(), *empty_stops("stop_sequences", self.stop_sequences)]

    def sampling(self, defaults: GenerationSettings) -> SamplingParams:
        """These values over the defaults. A prompt that is only read has an answer of one token, which nobody sees."""
        values = self.model_dump(include={*SAMPLING})
        if values["top_k"] == -1:
            values["top_k"] = 0
        return defaults.sampling(**values, max_tokens=max(1, self.max_tokens))

    def turn(self, caller: Caller, conversation_id: str | None, defaults: GenerationSettings) -> TurnRequest:
        """The turn that is asked for. Raises InvalidRequest."""
        if self.max_tokens == 0 and conversation_id is not None:
            raise InvalidRequest(
                "With the field max_tokens at 0 a prompt is only read, but a conversation goes on with an answer. Send "
                "at least 1, or leave the header X-Quern-Conversation out.",
                field="max_tokens",
            )
        return TurnRequest(
            caller,
            input=self.chat_input(continuing=conversation_id is not None),
            sampling=self.sampling(defaults),
            remember=conversation_id is not None,
            conversation_id=conversation_id,
            stops=stop_texts(self.stop_sequences),
            fit_answer=True,
            model=self.model,
        )
