"""A generation as llama-server's `POST /completion` wants it.

Source of the fields: llama.cpp, tools/server/README.md, "POST /completion".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from quern.engine.base import GenerateRequest
from quern.engine.served.continuation import Restarts
from quern.engine.slots import Lease
from quern.sampling import SamplingParams

Json = Mapping[str, object]

LLGUIDANCE = "%llguidance {}"
"""What a grammar in llguidance's notation begins with; without it llama.cpp takes a grammar for its own notation. A
server that was built without llguidance aborts over it.
"""
NO_FORCING = '%llguidance {"no_forcing": true}\n'
"""The same, and every token is drawn. Where only one text can follow, llama.cpp's llguidance would have that in the ids
of llama.cpp's tokenizer, which takes the name of a control token in it for the token.
"""
RANDOM_SEED = 0xFFFF_FFFF
SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")
RECENT_TOKENS = 64
LEAST_TEMPERATURE = 1e-4
"""A lower one draws the likeliest all the same; llama.cpp divides by it, and far lower ones overflow."""
FINAL_FIELDS = ("content", "tokens", "stop", "stop_type", "tokens_predicted", "timings")


def restarts(request: GenerateRequest) -> Restarts | None:
    """What of a request begins anew where an answer that was cut short is asked for again, after what there is of it:
    a grammar begins at its beginning, and a seed draws what it has drawn before.
    """
    if request.grammar is not None:
        return Restarts.GRAMMAR
    if request.sampling.seed is not None and not _draws_the_likeliest(request.sampling):
        return Restarts.SEED
    return None


def completion_request(request: GenerateRequest, lease: Lease, lark: str | None = None) -> Json:
    """The body of the request. Progress is asked for because only a write tells llama-server of a closed connection.

    `lark`: the request's grammar, as llguidance takes it.
    """
    body = {
        "prompt": request.prompt,
        "id_slot": lease.index,
        "cache_prompt": lease.reusable > 0,
        "stream": True,
        "return_tokens": True,
        "return_progress": True,
        "response_fields": FINAL_FIELDS,
        **sampling_fields(request.sampling, len(request.prompt) + request.sampling.max_tokens),
    }
    if lark is None:
        return body
    # Where a grammar ends, only the model's end is left to be drawn; where that is forbidden too, anything is drawn.
    return body | {"grammar": NO_FORCING + lark, "ignore_eos": False}


def sampling_fields(sampling: SamplingParams, whole_context: int) -> Json:
    """Sampling values in llama.cpp's names. `whole_context`: the most tokens that the sequence can reach.

    The samplers run in the order of Hugging Face Transformers, for which the defaults of Qwen's models were made:
    temperature before top-k, top-p and min-p; llama.cpp's own order has it last. The repetition penalty looks at the
    whole context, as there. Presence and frequency penalties share llama.cpp's one window, which includes the prompt:
    where they are used it is llama.cpp's usual 64 tokens, or every newline of a long prompt would count.
    """
    recent = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
    return {
        "n_predict": sampling.max_tokens,
        "samplers": SAMPLERS,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_last_n": RECENT_TOKENS if recent else whole_context,
        "seed": _seed(sampling.seed),
        "logit_bias": _biases(sampling),
        "ignore_eos": sampling.ignore_eos,
        **_filters(sampling),
        **_probabilities(sampling),
    }


def _probabilities(sampling: SamplingParams) -> Json:
    """llama-server tells the probability of the drawn token only together with at least one of the likeliest."""
    if sampling.logprobs is None:
        return {}
    return {"n_probs": max(sampling.logprobs, 1), "post_sampling_probs": False}


def _biases(sampling: SamplingParams) -> list[tuple[int, float | bool]]:
    """False is llama-server's word for never."""
    return [(token, False if bias == -math.inf else bias) for token, bias in sampling.logit_bias.items()]


def _filters(sampling: SamplingParams) -> Json:
    if _draws_the_likeliest(sampling):
        return {"temperature": 0.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0}
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
    }


def _draws_the_likeliest(sampling: SamplingParams) -> bool:
    return sampling.greedy or sampling.temperature < LEAST_TEMPERATURE or sampling.top_k == 1


def _seed(seed: int | None) -> int:
    """llama.cpp's seeds have 32 bits, and the highest means a random one."""
    if seed is None:
        return RANDOM_SEED
    wide = seed & 0xFFFF_FFFF_FFFF_FFFF
    return min((wide ^ wide >> 32) & 0xFFFF_FFFF, RANDOM_SEED - 1)
