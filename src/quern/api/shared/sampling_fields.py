"""Request fields that several dialects share.

Source of names, ranges and meanings: OpenAI's API reference; of `top_k`, `min_p` and `repetition_penalty`: vLLM's.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from quern.api.shared.fields import MOST_STOPS, NoOp, StopText, Strict
from quern.config import GenerationSettings
from quern.types import SamplingParams

MOST_CHOICES = 16
MOST_TOP_LOGPROBS = 20


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else [] if value is None else value


Stops = Annotated[
    list[StopText],
    Field(max_length=MOST_STOPS, description="Texts that end the answer."),
    BeforeValidator(_listed),
]


class SamplingFields(Strict):
    """How tokens are drawn. Unset ones take the server's defaults."""

    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False, description="0 is greedy.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Nucleus sampling; 1 is off.")
    top_k: int | None = Field(default=None, ge=-1, le=2**31 - 1, description="The k likeliest; 0 and -1 are off.")
    min_p: float | None = Field(default=None, ge=0, le=1, description="Least share of the likeliest's probability.")
    repetition_penalty: float | None = Field(default=None, gt=0, le=10, description="1 is off.")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, description="0 is off.")
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, description="0 is off.")
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, description="The same seed draws the same tokens.")
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, max_length=1024, description="Token ids and what is added to their logits."
    )
    stop: Stops = Field(default_factory=list[str])

    def sampling(self, defaults: GenerationSettings, *, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
        """These values over the defaults."""
        names = set(SamplingFields.model_fields) - {"stop"}
        given: dict[str, Any] = {name: value for name in names if (value := getattr(self, name)) is not None}
        if "top_k" in given:
            given["top_k"] = max(given["top_k"], 0)
        if max_tokens is not None:
            given["max_tokens"] = max_tokens
        return SamplingParams(**{**defaults.model_dump(), **given}, logprobs=logprobs)


class StreamOptions(Strict):
    """What a stream tells besides."""

    include_usage: bool = Field(default=False, description="A last chunk with the usage.")
    include_obfuscation: NoOp = None
