"""Request fields that several dialects share, and how a dialect picks sampling parameters as fields.

Source of names, ranges and meanings: OpenAI's API reference; of `top_k`, `min_p` and `repetition_penalty`: vLLM's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, Field, create_model, field_validator

from quern.api.shared.fields import MOST_STOP_CHARACTERS, MOST_STOPS, NoOp, RequestObject, as_number
from quern.config import GenerationSettings
from quern.sampling import PARAMETERS, Limits, SamplingParams

MOST_CHOICES = 16
MOST_TOP_LOGPROBS = 20


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    return [text or "" for text in cast("list[Any]", value)] if isinstance(value, list) else value


def _no_limit(value: Any) -> Any:
    return None if value == -1 else as_number(value)


MostTokens = Annotated[int | None, BeforeValidator(_no_limit)]
"""How long an answer may be; -1, as in llama.cpp, is as good as nothing."""

Stops = Annotated[
    list[Annotated[str, Field(max_length=MOST_STOP_CHARACTERS)]],
    Field(max_length=MOST_STOPS, description="Texts that end the answer; empty ones are left out."),
    BeforeValidator(_listed, json_schema_input_type=str | list[str | None]),
]


def stop_texts(stops: Stops) -> tuple[str, ...]:
    """The texts that can end an answer."""
    return tuple(text for text in stops if text)


def empty_stops(field: str, stops: Stops) -> list[str]:
    """The paths of the texts that can't. `field`: theirs."""
    return [f"{field}.{index}" for index, text in enumerate(stops) if not text]


Model = TypeVar("Model", bound=BaseModel)


def with_sampling(base: type[Model], names: Iterable[str], **changes: Limits) -> type[Model]:
    """A model like `base` with a field for each of those parameters, None where it is not sent.

    `changes`: the ranges and help that differ in a dialect, by parameter.
    """
    added: dict[str, Any] = {}
    for name in names:
        parameter = PARAMETERS[name]
        added[name] = (parameter.type | None, parameter.field(default=None, **changes.get(name, {})))
    return create_model(base.__name__, __base__=base, **added)


NAMED_BY_DIALECT = frozenset({"max_tokens", "ignore_eos", "logprobs"})
"""Parameters that every dialect asks for in a way of its own."""

SHARED = tuple(name for name in PARAMETERS if name not in NAMED_BY_DIALECT)


class SamplingFields(
    with_sampling(
        RequestObject, SHARED, top_k=Limits(ge=-1, description="Sample from the k likeliest tokens; 0 and -1 are off.")
    )
):
    """How tokens are drawn. Unset ones take the server's defaults."""

    stop: Stops = Field(default_factory=list[str])

    def ignored(self) -> Sequence[str]:
        """See `RequestObject.ignored`."""
        return [*super().ignored(), *empty_stops("stop", self.stop)]

    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        return stop_texts(self.stop)

    @field_validator("top_k")
    @classmethod
    def _off(cls, value: int | None) -> int | None:
        return 0 if value == -1 else value

    def sampling(self, defaults: GenerationSettings, *, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
        """These values over the defaults."""
        return defaults.sampling(**self.model_dump(include={*SHARED}), max_tokens=max_tokens, logprobs=logprobs)


class StreamOptions(RequestObject):
    """What a stream tells besides."""

    include_usage: bool = Field(default=False, description="A last chunk with the usage.")
    continuous_usage_stats: bool = Field(default=False, description="vLLM's: every chunk with the usage so far.")
    include_obfuscation: NoOp = None
