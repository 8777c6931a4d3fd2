"""What llama.cpp's requests for text have in common.

Source: "POST /completion" in llama.cpp's tools/server/README.md; docs/api.md has the tables of every field.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from quern.api.llamacpp.filling import Filling
from quern.api.shared.fields import JsonSchema, NoOp
from quern.api.shared.sampling_fields import SamplingFields
from quern.config import GenerationSettings
from quern.sampling import PARAMETERS
from quern.turns.request import Caller, TurnRequest
from quern.turns.tokens import EncodedPrompt

RANDOM_SEEDS = (-1, 0xFFFF_FFFF)
BANNED = -100.0
RENAMED = {"max_tokens": "n_predict", "repetition_penalty": "repeat_penalty"}


def only(value: Any, why: str = "This server can't do that") -> BeforeValidator:
    """Refuses everything else: what the field asks for is not part of this server."""

    def check(given: Any) -> Any:
        if given is not None and given != value:
            msg = f"{why}. Leave the field out, or send {json.dumps(value)}"
            raise ValueError(msg)
        return given

    return BeforeValidator(check)


def llamacpp_name(name: str) -> str:
    """A sampling parameter's name in llama.cpp."""
    return RENAMED.get(name, name)


class GenerationFields(SamplingFields):
    """Fields of every request for text."""

    model_config = ConfigDict(alias_generator=llamacpp_name)

    model: str | None = None
    n_predict: int = Field(
        default=-1, ge=-2, description="Most tokens; -1 and -2 are the server's default, 0 only reads the prompt."
    )
    n_indent: int = Field(default=0, ge=0, description="A line with less white space before it ends the answer.")
    t_max_predict_ms: int = Field(default=0, ge=0, description="After so long the answer ends with the line; 0 is off.")
    stream: bool = False
    response_fields: list[str] | None = Field(
        default=None, description="What the answer has; `a/b` is the member b of a, under that name."
    )
    ignore_eos: bool = PARAMETERS["ignore_eos"].field()
    json_schema: JsonSchema | None = Field(default=None, description="The answer is JSON of this schema; {} is any.")

    adaptive_decay: NoOp = None
    backend_sampling: NoOp = None
    cache_prompt: NoOp = None
    dry_allowed_length: NoOp = None
    dry_base: NoOp = None
    dry_penalty_last_n: NoOp = None
    dry_sequence_breakers: NoOp = None
    dynatemp_exponent: NoOp = None
    id_slot: NoOp = None
    min_keep: NoOp = None
    mirostat_eta: NoOp = None
    mirostat_tau: NoOp = None
    n_cache_reuse: NoOp = None
    n_discard: NoOp = None
    n_keep: NoOp = None
    repeat_last_n: NoOp = None
    return_progress: NoOp = None
    samplers: NoOp = None
    slot_id: NoOp = None
    sse_ping_interval: NoOp = None
    t_max_prompt_ms: NoOp = None
    timings_per_token: NoOp = None
    xtc_threshold: NoOp = None

    adaptive_target: Annotated[Any, only(-1)] = None
    dry_multiplier: Annotated[Any, only(0)] = None
    dynatemp_range: Annotated[Any, only(0)] = None
    grammar: Annotated[Any, only("", "GBNF is not read here, but json_schema is")] = None
    lora: Annotated[Any, only([])] = None
    mirostat: Annotated[Any, only(0)] = None
    n_cmpl: Annotated[Any, only(1)] = None
    n_probs: Annotated[Any, only(0)] = None
    post_sampling_probs: Annotated[Any, only(False)] = None
    return_tokens: Annotated[Any, only(False)] = None
    top_n_sigma: Annotated[Any, only(-1)] = None
    typical_p: Annotated[Any, only(1)] = None
    xtc_probability: Annotated[Any, only(0)] = None

    @field_validator("seed", mode="before")
    @classmethod
    def _seed(cls, value: Any) -> Any:
        return None if value in RANDOM_SEEDS else value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _biases(cls, value: Any) -> Any:
        """llama.cpp's pairs as an object. A bias of false bans the token."""
        if not isinstance(value, list):
            return value
        biases: dict[Any, Any] = {}
        for pair in cast("list[Any]", value):
            if not isinstance(pair, list) or len(cast("list[Any]", pair)) != 2:
                msg = "It must be an object, or a list of pairs of a token id and a bias"
                raise ValueError(msg)
            token, bias = cast("list[Any]", pair)
            biases[token if isinstance(token, int | str) else str(token)] = BANNED if bias is False else bias
        return biases

    @property
    def only_reads(self) -> bool:
        """Whether the prompt is read and nothing is wanted: an editor prepares for what will be asked next."""
        return self.answer_tokens() == 0

    def answer_tokens(self) -> int:
        """Most tokens of the answer; below 0 it is the server's default."""
        return self.n_predict

    def filling(self) -> Filling:
        """What becomes the answer."""
        return Filling(
            indent=self.n_indent,
            seconds=self.t_max_predict_ms / 1000 if self.t_max_predict_ms else None,
            wanted=not self.only_reads,
        )

    def turn(self, caller: Caller, encoded: EncodedPrompt, defaults: GenerationSettings) -> TurnRequest:
        """The turn that answers a prompt. One that only reads computes a token too, which nobody is shown."""
        wanted = self.answer_tokens()
        schema = None if self.json_schema is None else json.dumps(self.json_schema)
        tokens = None if wanted < 0 else max(wanted, 1)
        sampling = self.sampling(defaults, max_tokens=tokens, logprobs=None)
        return TurnRequest(
            caller,
            input=encoded.input
            if schema is None
            else replace(encoded.input, schema=schema, schema_field="json_schema"),
            sampling=replace(sampling, ignore_eos=self.ignore_eos),
            stops=self.stops(),
            priority=encoded.priority,
            fit_answer=True,
            model=self.model,
        )
