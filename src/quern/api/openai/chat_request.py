"""The body of a chat completion request.

Sources: "Create chat completion" in OpenAI's API reference, of `functions` and `function_call` too, which came before
tools; docs/api.md has the table of every field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field

from quern.api.openai.extensions import ExtendedFields
from quern.api.openai.schemas import ResponseFormat
from quern.api.openai.service_tier import FLEX, ServiceTier
from quern.api.shared.chat_messages import AssistantMessage, ChatMessage, message_items
from quern.api.shared.fields import MOST_MESSAGES, NoOp, RequestObject, refused
from quern.api.shared.sampling_fields import MOST_CHOICES, MOST_TOP_LOGPROBS, MostTokens, StreamOptions
from quern.api.shared.tools import MOST_TOOLS, Function, OfferedTool, ToolChoice, chosen_tools, shown_tools, tool_use
from quern.config import GenerationSettings
from quern.errors import InvalidRequest
from quern.sampling import PARAMETERS
from quern.turns.request import Caller, ChatInput, ToolUse, TurnRequest, split_prefill
from quern.types import Item

TEXT_ONLY = 'The model writes text only. Leave it out, or send ["text"]'


class NamedFunctionCall(RequestObject):
    """The function that must be called."""

    name: str


def _text_only(modalities: Any) -> Any:
    if modalities in (["text"], None):
        return modalities
    raise ValueError(TEXT_ONLY)


class ChatCompletionRequest(ExtendedFields):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], FailFast()] = Field(min_length=1, max_length=MOST_MESSAGES)
    model: str | None = None
    max_completion_tokens: MostTokens = PARAMETERS["max_tokens"].field(default=None)
    max_tokens: MostTokens = PARAMETERS["max_tokens"].field(
        default=None, description="The older name of max_completion_tokens, which counts if both are sent."
    )
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = PARAMETERS["logprobs"].field(le=MOST_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: list[OfferedTool] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = Field(default=None, max_length=MOST_TOOLS)
    function_call: Literal["auto", "none"] | NamedFunctionCall | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = Field(
        default=None, description="False: an answer begins anew though the last message is the assistant's."
    )
    modalities: Annotated[list[Literal["text"]] | None, BeforeValidator(_text_only)] = None
    audio: Annotated[None, refused(TEXT_ONLY)] = None
    metadata: NoOp = None
    prediction: NoOp = None
    prompt_cache_key: NoOp = None
    prompt_cache_options: NoOp = None
    prompt_cache_retention: NoOp = None
    reasoning_effort: NoOp = None
    safety_identifier: NoOp = None
    service_tier: ServiceTier = None
    store: NoOp = None
    verbosity: NoOp = None

    @property
    def legacy(self) -> bool:
        """Whether the answer calls functions in the way that came before tools."""
        return bool(self.functions) and not self.tools

    def ignored(self) -> Sequence[str]:
        """See `RequestObject.ignored`. Where there are tools, functions are no more than an older copy of them. Answers
        are an assistant's: what has nobody begun, an assistant begins.
        """
        begun = isinstance(self.messages[-1], AssistantMessage)
        vain = {
            "functions": bool(self.tools and self.functions),
            "function_call": bool(self.function_call) and not self.legacy,
            "add_generation_prompt": self.add_generation_prompt is False and not begun,
            "continue_final_message": self.continue_final_message is True and not begun,
        }
        return [*super().ignored(), *(name for name, is_vain in vain.items() if is_vain)]

    def items(self) -> tuple[Item, ...]:
        """The messages as steps. Raises InvalidRequest."""
        return message_items(self.messages)

    def tool_use(self) -> ToolUse:
        """Raises InvalidRequest."""
        if not self.legacy:
            parallel = self.parallel_tool_calls is not False
            return chosen_tools(shown_tools(self.tools), self.tool_choice, parallel=parallel)
        choice = self.function_call
        return tool_use(
            [function.tool() for function in self.functions or []],
            choice if isinstance(choice, str) else None,
            only=choice.name if isinstance(choice, NamedFunctionCall) else None,
            parallel=False,
            choice_field="function_call",
        )

    def answer_tokens(self) -> int | None:
        """Most tokens of the answer. Clients that know both names send both, and mean the newer one."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def logprobs_count(self) -> int | None:
        """Of how many likeliest tokens probabilities are wanted; None for none at all. Raises InvalidRequest."""
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true. Send both.", field="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    def turn(self, caller: Caller, conversation_id: str | None, defaults: GenerationSettings) -> TurnRequest:
        """The turn that is asked for. Raises InvalidRequest."""
        wanted = self.answer_format(self.response_format)
        items, prefill = self.items(), ""
        if self.continue_final_message is not False:
            items, prefill = split_prefill(items, alone=conversation_id is not None)
        return TurnRequest(
            caller,
            input=ChatInput(
                items,
                prefill=prefill,
                tool_use=self.tool_use(),
                schema=wanted.schema,
                language=wanted.language,
                schema_field=wanted.field,
                items_field="messages",
            ),
            sampling=self.sampling(defaults, max_tokens=self.answer_tokens(), logprobs=self.logprobs_count()),
            remember=conversation_id is not None,
            conversation_id=conversation_id,
            stops=self.stops(),
            background=self.service_tier == FLEX,
            fit_answer=True,
            model=self.model,
        )
