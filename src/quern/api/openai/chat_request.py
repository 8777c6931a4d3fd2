"""The body of a chat completion request.

Source: "Create chat completion" in OpenAI's API reference; docs/api.md has the table of every field.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import FailFast, Field

from quern.api.openai.schemas import JsonObjectFormat, JsonSchemaFormat, TextFormat
from quern.api.shared.chat_messages import ChatMessage, message_items
from quern.api.shared.fields import MOST_MESSAGES, NoOp
from quern.api.shared.sampling_fields import MOST_CHOICES, MOST_TOP_LOGPROBS, SamplingFields, StreamOptions
from quern.api.shared.tools import MOST_TOOLS, ChatTool, NamedTool, tool_use
from quern.config import GenerationSettings
from quern.errors import InvalidRequest
from quern.sampling import PARAMETERS
from quern.turns.request import Caller, ChatInput, ToolUse, TurnRequest, split_prefill
from quern.types import Item

ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class ChatCompletionRequest(SamplingFields):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], FailFast()] = Field(min_length=1, max_length=MOST_MESSAGES)
    model: str | None = None
    max_completion_tokens: int | None = PARAMETERS["max_tokens"].field(default=None)
    max_tokens: int | None = PARAMETERS["max_tokens"].field(
        default=None, description="The older name of max_completion_tokens."
    )
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = PARAMETERS["logprobs"].field(le=MOST_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: list[ChatTool] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    cache_prompt: NoOp = None
    id_slot: NoOp = None
    metadata: NoOp = None
    prediction: NoOp = None
    prompt_cache_key: NoOp = None
    prompt_cache_options: NoOp = None
    prompt_cache_retention: NoOp = None
    reasoning_effort: NoOp = None
    safety_identifier: NoOp = None
    samplers: NoOp = None
    service_tier: NoOp = None
    store: NoOp = None
    user: NoOp = None
    verbosity: NoOp = None

    def items(self) -> tuple[Item, ...]:
        """The messages as steps. Raises InvalidRequest."""
        return message_items(self.messages)

    def tool_use(self) -> ToolUse:
        """Raises InvalidRequest."""
        choice = self.tool_choice
        only = choice.function.name if isinstance(choice, NamedTool) else None
        return tool_use(
            [tool.function.tool() for tool in self.tools or []],
            choice if isinstance(choice, str) else None,
            only=only,
            parallel=self.parallel_tool_calls is not False,
        )

    def answer_tokens(self) -> int | None:
        """Most tokens of the answer. Raises InvalidRequest where its two names disagree."""
        if self.max_tokens is not None and self.max_completion_tokens not in {None, self.max_tokens}:
            msg = "max_tokens is the older name of max_completion_tokens, and the two differ. Send one of them."
            raise InvalidRequest(msg, field="max_tokens")
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def logprobs_count(self) -> int | None:
        """Of how many likeliest tokens probabilities are wanted; None for none at all. Raises InvalidRequest."""
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true. Send both.", field="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    def turn(self, caller: Caller, conversation_id: str | None, defaults: GenerationSettings) -> TurnRequest:
        """The turn that is asked for. Raises InvalidRequest."""
        items, prefill = split_prefill(self.items(), alone=conversation_id is not None)
        return TurnRequest(
            caller,
            input=ChatInput(
                items,
                prefill=prefill,
                tool_use=self.tool_use(),
                schema=self.response_format.schema_text() if self.response_format is not None else None,
                schema_field="response_format",
                items_field="messages",
            ),
            sampling=self.sampling(defaults, max_tokens=self.answer_tokens(), logprobs=self.logprobs_count()),
            remember=conversation_id is not None,
            conversation_id=conversation_id,
            stops=tuple(self.stop),
            fit_answer=True,
        )
