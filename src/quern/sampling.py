"""How tokens are drawn: every sampling parameter with its name, type, default, range and help, declared once.

Made from it are the settings `generation.*`, the request fields of the dialects, the form of the two plain endpoints,
and the options of the client and of `quern generate`. A dialect picks parameters, and may rename them or change a
range. To add a parameter, add it here, to each engine (`engine/cpu/native.py`, `engine/llamacpp/request.py`) and to the
tables of docs/api.md; `SETTINGS` and `PlainSampling` say where else it is offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Annotated, Any, TypedDict, get_type_hints

import pydantic


class Limits(TypedDict, total=False):
    """What a value must be, and its help: arguments of pydantic's `Field`."""

    description: str
    ge: float
    gt: float
    le: float
    lt: float
    max_length: int
    allow_inf_nan: bool


Bias = Annotated[float, pydantic.Field(ge=-100, le=100)]
"""What is added to a token's logit."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The parameters of one answer. Names and ranges follow the OpenAI, vLLM and llama.cpp conventions.

    An engine takes them as they are: the ranges are checked where values come in.
    """

    max_tokens: int = field(default=4096, metadata=Limits(description="Most tokens of an answer.", ge=1))
    temperature: float = field(
        default=0.7, metadata=Limits(description="Sampling temperature; 0 is greedy.", ge=0, le=2, allow_inf_nan=False)
    )
    top_p: float = field(
        default=0.8, metadata=Limits(description="Nucleus sampling; 1 is off, 0 is greedy.", ge=0, le=1)
    )
    top_k: int = field(
        default=20, metadata=Limits(description="Sample from the k likeliest tokens; 0 is off.", ge=0, le=2**31 - 1)
    )
    min_p: float = field(
        default=0.0,
        metadata=Limits(description="Least share of the likeliest token's probability; 0 is off.", ge=0, le=1),
    )
    repetition_penalty: float = field(
        default=1.05, metadata=Limits(description="Penalty on tokens already seen; 1 is off.", gt=0, le=10)
    )
    presence_penalty: float = field(
        default=0.0, metadata=Limits(description="Penalty on tokens of the answer; 0 is off.", ge=-2, le=2)
    )
    frequency_penalty: float = field(
        default=0.0,
        metadata=Limits(description="Penalty on tokens of the answer, for each time they came; 0 is off.", ge=-2, le=2),
    )
    seed: int | None = field(
        default=None, metadata=Limits(description="The same seed draws the same tokens.", ge=-(2**63), lt=2**63)
    )
    logit_bias: dict[int, Bias] = field(
        default_factory=dict[int, float],
        metadata=Limits(description="Token ids and what is added to their logits.", max_length=1024),
    )
    ignore_eos: bool = field(default=False, metadata=Limits(description="Go on where the model would end."))
    logprobs: int | None = field(
        default=None,
        metadata=Limits(description="Tell each token's probability, and those of so many of the likeliest.", ge=0),
    )

    @property
    def greedy(self) -> bool:
        """Whether only the likeliest token can be drawn: a nucleus of nothing is that one."""
        return self.temperature <= 0 or self.top_p <= 0


SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty")
"""The parameters whose defaults are settings, `generation.*`."""


class PlainSampling(TypedDict, total=False):
    """The parameters of the two plain endpoints, hence of the client and the command line. None is the default."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    repetition_penalty: float | None
    seed: int | None


PLAIN = tuple(PlainSampling.__annotations__)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A declaration. `type`: an annotation."""

    type: Any
    default: Any
    limits: Mapping[str, Any]

    def field(self, **changes: Any) -> Any:
        """Its field of a pydantic model. `changes`: arguments of pydantic's `Field` that are others there."""
        return pydantic.Field(**{"default": self.default, **self.limits, **changes})


def _declarations() -> dict[str, Parameter]:
    types, defaults = get_type_hints(SamplingParams, include_extras=True), SamplingParams()
    return {
        one.name: Parameter(types[one.name], getattr(defaults, one.name), one.metadata)
        for one in fields(SamplingParams)
    }


PARAMETERS: Mapping[str, Parameter] = MappingProxyType(_declarations())
"""The parameters by name, in the order of the declaration."""
