"""The body of a completion request.

Source: "Create completion" in OpenAI's API reference (legacy); docs/api.md has the table of every field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, PlainValidator

from quern.api.openai.extensions import ExtendedFields
from quern.api.openai.schemas import ResponseFormat
from quern.api.shared.fields import NoOp, RequestObject, as_number
from quern.api.shared.sampling_fields import MOST_CHOICES, MostTokens, StreamOptions
from quern.config import GenerationSettings
from quern.errors import InvalidRequest
from quern.sampling import PARAMETERS
from quern.turns.request import Caller, TurnRequest
from quern.turns.tokens import EncodedPrompt, TextOrIds, TokenService

MOST_LEGACY_LOGPROBS = 5
PROMPT_KINDS = "a string, a list of strings, a list of token ids, or a list of such lists"


def _prompts(value: Any) -> tuple[TextOrIds, ...]:
    """Raises ValueError."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        items = cast("list[Any]", value)
        if all(isinstance(item, str) for item in items):
            return tuple(items)
        if _are_ids(items):
            return (tuple(items),)
        if all(isinstance(item, list) and _are_ids(cast("list[Any]", item)) for item in items):
            return tuple(tuple(item) for item in items)
    msg = f"It must be {PROMPT_KINDS}"
    raise ValueError(msg)


def _are_ids(items: Sequence[Any]) -> bool:
    return all(type(item) is int for item in items)


Prompts = Annotated[
    tuple[TextOrIds, ...],
    PlainValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]
"""One prompt or several: texts, or token ids."""


def _without_false(value: Any) -> Any:
    return None if value is False else as_number(value)


class Snippet(RequestObject):
    """A piece of another file of the repository."""

    filepath: str = "file"
    body: str = ""


class Segments(RequestObject):
    """What stands around a gap, as Tabby's plug-ins send it to Tabby's own server."""

    prefix: str
    suffix: str | None = None
    clipboard: NoOp = None
    declarations: list[Snippet] = Field(default_factory=list[Snippet])
    edit_history: NoOp = None
    filepath: NoOp = None
    git_url: NoOp = None
    relevant_snippets_from_changed_files: list[Snippet] = Field(default_factory=list[Snippet])
    relevant_snippets_from_recently_opened_files: list[Snippet] = Field(default_factory=list[Snippet])

    def files(self) -> list[tuple[str, str]]:
        """Paths and texts of the snippets, the most useful last."""
        snippets = (
            *self.relevant_snippets_from_recently_opened_files,
            *self.relevant_snippets_from_changed_files,
            *self.declarations,
        )
        return [(snippet.filepath, snippet.body) for snippet in snippets]


class CompletionRequest(ExtendedFields):
    """`POST /v1/completions`. `max_tokens` is the server's default where it is not set, not 16 as at OpenAI."""

    prompt: Prompts | None = None
    segments: Segments | None = Field(default=None, description="Tabby's: the gap, where there is no prompt.")
    model: str | None = None
    suffix: str | None = Field(default=None, description="What comes after the answer: the gap before it is filled.")
    max_tokens: MostTokens = PARAMETERS["max_tokens"].field(default=None)
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    best_of: int | None = Field(default=None, ge=1)
    echo: bool | None = None
    logprobs: Annotated[int | None, BeforeValidator(_without_false)] = PARAMETERS["logprobs"].field(
        le=MOST_LEGACY_LOGPROBS
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    language: NoOp = None

    @property
    def choices(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    def check(self) -> None:
        """Raises InvalidRequest where the fields don't fit each other."""
        if self.best_of not in {None, self.choices}:
            raise InvalidRequest(
                f"best_of={self.best_of} would write more answers than it returns, to choose among them, and this "
                f"server doesn't. Send n={self.best_of} and choose, or leave best_of out.",
                field="best_of",
            )
        if self.echo and self.logprobs is not None:
            raise InvalidRequest(
                "With echo the probabilities of the prompt's tokens would be part of the answer, and they are not "
                "computed. Send echo or logprobs, not both.",
                field="logprobs",
            )
        if self.prompt is None and self.segments is None:
            raise InvalidRequest(f"The field prompt is missing. Send {PROMPT_KINDS}.", field="prompt")
        prompts = self.prompt or ("",)
        if self.suffix is not None and any(not isinstance(prompt, str) for prompt in prompts):
            raise InvalidRequest(
                "A suffix needs a prompt that is text: the gap between the two is filled. Send the prompt as a string.",
                field="suffix",
            )
        answers = len(prompts) * self.choices
        if answers > MOST_CHOICES:
            raise InvalidRequest(
                f"{len(prompts)} prompts with {self.choices} answers each make {answers} answers, and one request "
                f"gets {MOST_CHOICES} at most. Send fewer prompts, or a smaller n.",
                field="prompt" if self.choices == 1 else "n",
            )

    def encode(self, tokens: TokenService) -> list[EncodedPrompt]:
        """The prompts' ids; call it in a thread. Raises InvalidRequest."""
        if self.prompt is None and self.segments is not None:
            segments = self.segments
            return [tokens.encode_gap(segments.prefix, segments.suffix or "", files=segments.files())]
        return [self._encode(tokens, given) for given in self.prompt or ()]

    def turn(self, caller: Caller, encoded: EncodedPrompt, defaults: GenerationSettings) -> TurnRequest:
        """The turn that continues one of the prompts. Raises InvalidRequest."""
        wanted = self.answer_format(self.response_format)
        return TurnRequest(
            caller,
            input=replace(encoded.input, schema=wanted.schema, language=wanted.language, schema_field=wanted.field),
            sampling=self.sampling(defaults, max_tokens=self.max_tokens, logprobs=self.logprobs),
            stops=self.stops(),
            priority=encoded.priority,
            fit_answer=True,
            model=self.model,
        )

    def _encode(self, tokens: TokenService, given: TextOrIds) -> EncodedPrompt:
        if self.suffix is not None and isinstance(given, str):
            return tokens.encode_gap(given, self.suffix)
        return tokens.encode_prompt(given)
