"""A generation as `POST /v1/completions` wants it, over token ids as vLLM extends that.

Sources: vLLM 0.32, `entrypoints/openai/completion/protocol.py`, `sampling_params.py` and `v1/sample/sampler.py`. What
values mean there, where that needs saying:

- The order is bias, penalties, temperature, min-p, top-k, top-p. The repetition penalty looks at prompt and answer,
  presence and frequency penalties at the answer alone, as in Hugging Face Transformers and in OpenAI's API.
- A temperature below 1e-5 is greedy, one below 0.01 becomes 0.01. `top_k` 0 is off. `top_p` 0 is refused: a nucleus of
  nothing is asked for as greedy.
- A bias is clamped to -100…100, so one of minus infinity is -100, which nearly always forbids a token, not always.
- A seed begins a sequence's own random numbers; -1 would be none.
- Probabilities are those before bias, penalties and temperature; but a grammar has been applied, so under one they are
  those among the tokens that it allows.
- `ignore_eos` leaves the model's own end out; ids that we name as stops end an answer all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from quern.engine.base import GenerateRequest
from quern.engine.served.continuation import Restarts, rest_of
from quern.sampling import SamplingParams

Json = Mapping[str, object]

LEAST_TEMPERATURE = 1e-4
"""A lower one draws the likeliest all the same."""
LARGEST_BIAS = 100.0
NO_FORCING = '%llguidance {"no_forcing": true}\n'
"""Before a grammar: every token is drawn. Where only one text can follow, llguidance would have that in the ids of the
server's tokenizer, which takes the name of a control token in it for the token.
"""
NO_SEED = -1
OTHER_SEED = 2**63 - 1
"""Takes the place of the seed that would be none."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server can do beyond drawing tokens from a prompt of ids: keep to grammars, keep the cache apart by salt,
    take priorities, tell probabilities by id. `progress`: tell how much of a prompt is computed, for which
    OpenAI's protocol has nothing.
    """

    grammars: bool = True
    salts: bool = True
    priorities: bool = True
    logprobs: bool = True
    progress: bool = False

    @property
    def lacking(self) -> tuple[str, ...]:
        """What it can't do of what is missed, by name."""
        wanted = {"grammars": self.grammars, "salts": self.salts, "priorities": self.priorities}
        return tuple(name for name, able in {**wanted, "logprobs": self.logprobs}.items() if not able)


ALL = Abilities()


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a server: a request, which begins at its beginning. `end_ids`: those that end a turn, whatever
    the server takes for the model's end. `lark`: the request's grammar, as llguidance takes it.
    """

    request: GenerateRequest
    end_ids: frozenset[int]
    lark: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the rest may be asked for anew, after what came."""
        return restarts(self.request) is None

    def after(self, ids: tuple[int, ...]) -> Asked:
        """The same for the rest, after so much of the answer."""
        return replace(self, request=rest_of(replace(self.request, generated=ids)))


def restarts(request: GenerateRequest) -> Restarts | None:
    """What of a request begins anew where an answer that was cut short is asked for again, after what there is of it:
    grammars and seeds do, and what presence and frequency penalties count is a prompt then.
    """
    sampling = request.sampling
    if request.grammar is not None:
        return Restarts.GRAMMAR
    if sampling.seed is not None and not draws_the_likeliest(sampling):
        return Restarts.SEED
    if sampling.presence_penalty != 0 or sampling.frequency_penalty != 0:
        return Restarts.PENALTIES
    return None


def completion_body(asked: Asked, model: str, abilities: Abilities) -> Json:
    """The body of the request. `model`: the server's name of it."""
    request, lark = asked.request, asked.lark
    sampling = request.sampling
    # Where a grammar ends, only the model's end is left to be drawn.
    ignore_eos = sampling.ignore_eos and lark is None
    stops = request.stop_token_ids if ignore_eos else request.stop_token_ids | asked.end_ids
    body: dict[str, object] = {
        "model": model,
        "prompt": request.prompt,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "skip_special_tokens": False,
        "max_tokens": sampling.max_tokens,
        "stop_token_ids": sorted(stops),
        "ignore_eos": ignore_eos,
        **_sampling(sampling),
    }
    if sampling.logprobs is not None and abilities.logprobs:
        body |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
    if lark is not None:
        body["structured_outputs"] = {"grammar": NO_FORCING + lark}
    if abilities.progress:
        body["return_progress"] = True
    if request.cache_salt and abilities.salts:
        body["cache_salt"] = request.cache_salt
    if abilities.priorities:
        body["priority"] = request.current_priority.value
    return body


def draws_the_likeliest(sampling: SamplingParams) -> bool:
    """Whether no other token can be drawn."""
    return sampling.greedy or sampling.temperature < LEAST_TEMPERATURE or sampling.top_k == 1


def _sampling(sampling: SamplingParams) -> dict[str, object]:
    values: dict[str, object] = {
        "temperature": 0.0,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    if not draws_the_likeliest(sampling):
        values |= {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
        }
    if sampling.seed is not None:
        values["seed"] = OTHER_SEED if sampling.seed == NO_SEED else sampling.seed
    if sampling.logit_bias:
        values["logit_bias"] = {str(token): _bias(bias) for token, bias in sampling.logit_bias.items()}
    return values


def _bias(bias: float) -> float:
    return -LARGEST_BIAS if bias == -math.inf else max(-LARGEST_BIAS, min(bias, LARGEST_BIAS))
