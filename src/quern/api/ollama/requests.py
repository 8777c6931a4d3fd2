"""The bodies of requests for text.

Source: "Generate a response" and "Generate a chat message" in Ollama's API documentation; docs/api.md has the tables of
every field.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator

from quern.api.ollama.catalog import LATEST
from quern.api.ollama.messages import ChatMessage, message_items
from quern.api.shared.fields import (
    ANY_OBJECT,
    MOST_MESSAGES,
    JsonSchema,
    LeftOut,
    NoOp,
    RequestObject,
    refused,
    type_of,
)
from quern.api.shared.sampling_fields import MOST_TOP_LOGPROBS, SamplingFields
from quern.api.shared.tools import FUNCTION, MOST_TOOLS, OfferedFunction, shown_tools, tool_use
from quern.config import GenerationSettings
from quern.errors import InvalidRequest
from quern.sampling import PARAMETERS, SamplingParams
from quern.turns.request import Caller, ChatInput, TurnRequest, split_prefill
from quern.turns.tokens import EncodedPrompt, TokenService
from quern.types import Item, Message, Role

RENAMED = {"repetition_penalty": "repeat_penalty"}


def _format(value: Any) -> Any:
    """Raises ValueError."""
    if isinstance(value, str) and value not in {"", "json"}:
        msg = "It must be 'json' or a JSON schema"
        raise ValueError(msg)
    return value


Format = Annotated[str | JsonSchema | None, AfterValidator(_format)]
"""`json` for any object, or a JSON schema."""


class Options(SamplingFields):
    """How tokens are drawn, under Ollama's names. What loads a model is decided when the server starts."""

    model_config = ConfigDict(alias_generator=lambda name: RENAMED.get(name, name))

    num_predict: int | None = Field(default=None, description="Most tokens; below 0 is the server's default.")

    embedding_only: NoOp = None
    f16_kv: NoOp = None
    logits_all: NoOp = None
    low_vram: NoOp = None
    main_gpu: NoOp = None
    mirostat_eta: NoOp = None
    mirostat_tau: NoOp = None
    num_batch: NoOp = None
    num_ctx: NoOp = None
    num_gpu: NoOp = None
    num_keep: NoOp = None
    num_thread: NoOp = None
    numa: NoOp = None
    penalize_newline: NoOp = None
    repeat_last_n: NoOp = None
    use_mlock: NoOp = None
    use_mmap: NoOp = None
    vocab_only: NoOp = None

    @field_validator("seed", mode="before")
    @classmethod
    def _seed(cls, value: Any) -> Any:
        return None if value == -1 else value

    def drawn(self, defaults: GenerationSettings, logprobs: int | None) -> SamplingParams:
        """These values over the defaults."""
        wanted = self.num_predict
        return self.sampling(
            defaults, max_tokens=None if wanted is None or wanted < 0 else max(wanted, 1), logprobs=logprobs
        )


class TextRequest(RequestObject):
    """What both requests have."""

    model: str | None = None
    stream: bool = True
    format: Format = None
    options: Options = Options()
    logprobs: bool = False
    top_logprobs: int | None = PARAMETERS["logprobs"].field(le=MOST_TOP_LOGPROBS)
    keep_alive: Any = None
    think: NoOp = None

    @property
    def unloads(self) -> bool:
        """Whether a request without a prompt asks to free the model; it stays, but the answer is as expected."""
        return isinstance(self.keep_alive, int | float | str) and str(self.keep_alive).rstrip("smh") in {"0", "0.0"}

    def sampling(self, defaults: GenerationSettings) -> SamplingParams:
        """How the answer is drawn."""
        return self.options.drawn(defaults, (self.top_logprobs or 0) if self.logprobs else None)

    def schema_text(self) -> str | None:
        """The JSON schema that the answer keeps to."""
        if not self.format:
            return None
        return ANY_OBJECT if isinstance(self.format, str) else json.dumps(self.format)

    @property
    def served_name(self) -> str:
        """The model that is asked for. Names end in a tag; `:latest` is the one that is meant where there is none."""
        return (self.model or "").removesuffix(LATEST)

    def chat_turn(
        self, caller: Caller, items: tuple[Item, ...], defaults: GenerationSettings, **more: Any
    ) -> TurnRequest:
        """The turn that answers these items. `more`: other members of its `ChatInput`."""
        return TurnRequest(
            caller,
            input=ChatInput(items, schema=self.schema_text(), schema_field="format", **more),
            sampling=self.sampling(defaults),
            stops=self.options.stops(),
            fit_answer=True,
            model=self.served_name,
        )


def _without_a_name(tool: Any) -> Any:
    if not isinstance(tool, dict) or type_of(tool) not in {None, FUNCTION}:
        return cast("Any", tool)
    members = cast("dict[str, Any]", tool)
    function = members.get(FUNCTION, members)
    nameless = function is None or (isinstance(function, dict) and not cast("dict[str, Any]", function).get("name"))
    return LeftOut() if nameless else members


ChatTool = Annotated[OfferedFunction, BeforeValidator(_without_a_name)]
"""A tool. Ollama's types allow functions without a name; nothing could call them, so they are left out and named."""


class ChatRequest(TextRequest):
    """`POST /api/chat`."""

    messages: list[ChatMessage] = Field(default_factory=list[ChatMessage], max_length=MOST_MESSAGES)
    tools: list[ChatTool] = Field(default_factory=list[ChatTool], max_length=MOST_TOOLS)

    def turn(self, caller: Caller, defaults: GenerationSettings) -> TurnRequest | None:
        """The turn that is asked for; None where the model is only to be loaded. Raises InvalidRequest."""
        if not self.messages:
            return None
        items, prefill = split_prefill(message_items(self.messages))
        use = tool_use(shown_tools(self.tools), None, only=None, parallel=True)
        return self.chat_turn(caller, items, defaults, prefill=prefill, tool_use=use, items_field="messages")


class GenerateRequest(TextRequest):
    """`POST /api/generate`."""

    prompt: str = ""
    suffix: str = Field(default="", description="What comes after the answer: the gap before it is filled.")
    system: str = ""
    raw: bool = Field(default=False, description="The prompt is continued as it is, without a chat template.")
    context: Annotated[Any, refused("Answers have no context here. Send the conversation to /api/chat")] = None
    images: Annotated[Any, refused("The model reads text only. Say in the prompt what they show")] = None
    template: Annotated[Any, refused("The model's own template is used. Write the prompt out and send raw")] = None

    @property
    def continues(self) -> bool:
        """Whether a text is continued, or a gap filled, instead of a message answered."""
        return self.raw or bool(self.suffix)

    def encode(self, tokens: TokenService) -> EncodedPrompt:
        """The ids of a text to continue, or of a gap; call it in a thread. Raises InvalidRequest."""
        return tokens.encode_gap(self.prompt, self.suffix) if self.suffix else tokens.encode_prompt(self.prompt)

    def turn(self, caller: Caller, encoded: EncodedPrompt | None, defaults: GenerationSettings) -> TurnRequest | None:
        """The turn that is asked for; None where the model is only to be loaded. `encoded`: what is continued.

        Raises InvalidRequest.
        """
        if encoded is None:
            items = (Message(Role.USER, self.prompt),)
            return self.chat_turn(caller, items, defaults, instructions=self.system or None) if self.prompt else None
        if self.format:
            raise InvalidRequest(
                "A format is for answers to a prompt, not for texts that are continued. Leave out format, or raw and "
                "suffix.",
                field="format",
            )
        return TurnRequest(
            caller,
            input=encoded.input,
            sampling=self.sampling(defaults),
            stops=self.options.stops(),
            priority=encoded.priority,
            fit_answer=True,
            model=self.served_name,
        )
