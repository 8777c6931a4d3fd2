"""The bodies of requests for a message, and for the count of a prompt's tokens.

Source: "Create a Message" and "Count tokens in a Message" in Anthropic's API reference; docs/api.md has the table of
every field.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import FailFast, Field

from quern.api.anthropic.blocks import TextBlock, Texts
from quern.api.anthropic.input_messages import InputMessage, items_of, offered_tools
from quern.api.anthropic.tools import ClientTool, ToolChoice, use_of
from quern.api.shared.fields import MOST_MESSAGES, MOST_STOPS, JsonSchema, NoOp, RequestObject, StopText
from quern.api.shared.sampling_fields import with_sampling
from quern.api.shared.tools import MOST_TOOLS
from quern.config import GenerationSettings
from quern.errors import InvalidRequest
from quern.sampling import PARAMETERS, Limits, SamplingParams
from quern.turns.request import Caller, ChatInput, TurnRequest

BILLING_HEADER = "x-anthropic-billing-header:"
"""Claude Code sends a header of this name as its first block of system text."""


class JsonFormat(RequestObject):
    """A JSON value of a schema."""

    type: Literal["json_schema"]
    schema_: JsonSchema = Field(alias="schema")


class OutputConfig(RequestObject):
    """What the answer is like."""

    format: JsonFormat | None = None
    effort: NoOp = None
    task_budget: NoOp = None


class ContextEdit(RequestObject):
    """Something to leave out of the prompt. Of earlier thinking nothing is shown to the model anyway."""

    type: Literal["clear_thinking_20251015"]
    keep: NoOp = None


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
    context_management: ContextManagement | None = None
    betas: NoOp = None
    cache_control: NoOp = None
    speed: NoOp = None
    thinking: NoOp = None

    def chat_input(self) -> ChatInput:
        """What is said to the model. Raises InvalidRequest."""
        system = "\n".join(block.text for block in self.system if not block.text.startswith(BILLING_HEADER))
        wanted = self.output_config.format if self.output_config is not None else None
        return ChatInput(
            items_of(self.messages),
            instructions=system or None,
            tool_use=use_of(offered_tools(self.tools or [], self.messages), self.tool_choice),
            schema=json.dumps(wanted.schema_) if wanted is not None else None,
            schema_field="output_config.format",
            items_field="messages",
        )


SAMPLING = ("temperature", "top_p", "top_k")


class MessagesRequest(with_sampling(CountTokensRequest, SAMPLING, temperature=Limits(le=1))):
    """`POST /v1/messages`."""

    max_tokens: int = PARAMETERS["max_tokens"].field(default=...)
    stop_sequences: list[StopText] | None = Field(default=None, max_length=MOST_STOPS)
    stream: bool | None = None
    diagnostics: NoOp = None
    inference_geo: NoOp = None
    metadata: NoOp = None
    service_tier: NoOp = None

    def sampling(self, defaults: GenerationSettings) -> SamplingParams:
        """These values over the defaults."""
        return defaults.sampling(**self.model_dump(include={"max_tokens", *SAMPLING}))

    def turn(self, caller: Caller, conversation_id: str | None, defaults: GenerationSettings) -> TurnRequest:
        """The turn that is asked for. Raises InvalidRequest."""
        if self.messages[-1].role == "assistant":
            raise InvalidRequest(
                "The last message is the assistant's, but answers always begin anew here (no prefill). End the "
                "messages with a user message.",
                field="messages",
            )
        return TurnRequest(
            caller,
            input=self.chat_input(),
            sampling=self.sampling(defaults),
            remember=conversation_id is not None,
            conversation_id=conversation_id,
            stops=tuple(self.stop_sequences or ()),
            fit_answer=True,
        )
