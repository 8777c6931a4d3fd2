"""How one sequence draws its tokens: the same order and the same random numbers as Quern's own sampler.

Logit bias, repetition penalty (Keskar et al. 2019, over prompt and answer), presence and frequency penalties (OpenAI's,
over the answer), the grammar's mask, temperature, top-k, top-p, min-p. The n-th token of a seed is drawn with the n-th
number of that seed, whatever was drawn before. Written with tensors' own methods, on whatever device they are.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .completion import Completion, Token

Tensor = Any
"""A tensor of PyTorch; [n] is its shape, V the number of ids."""

_WORD = 0xFFFF_FFFF
SEED_BITS = 64


class NothingToDraw(Exception):
    """No token is left that could be drawn; `str()` is a sentence."""


def uniform(seed: int, n: int) -> float:
    """The n-th number of a seed, in [0, 1): Philox 4x32-10 (Salmon et al., SC'11)."""
    a, b, c, d = n & _WORD, n >> 32, 0, 0
    first, second = seed & _WORD, seed >> 32 & _WORD
    for _ in range(10):
        low, high = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (high >> 32) ^ b ^ first, high & _WORD, (low >> 32) ^ d ^ second, low & _WORD
        first, second = (first + 0x9E3779B9) & _WORD, (second + 0xBB67AE85) & _WORD
    return ((b << 32 | a) >> 11) * 2.0**-53


class Sampler:
    """Draws for one sequence. Not for several threads."""

    def __init__(self, completion: Completion) -> None:
        self._asked = completion
        seed = secrets.randbits(SEED_BITS) if completion.seed is None else completion.seed
        self._seed = seed % 2**SEED_BITS
        self._drawn = 0
        self._counts: Counter[int] = Counter()
        self._seen = set(completion.prompt)
        self._seen_index: Tensor = None

    def draw(self, logits: Tensor, allowed: Tensor | None = None) -> Token:
        """Draw the next token from float logits [V], of the `allowed` [V] ids where a grammar says which.

        Raises NothingToDraw.
        """
        scores = self._changed(logits)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -math.inf)
        token = int(scores.argmax()) if self._asked.greedy else self._chosen(scores)
        if scores[token] == -math.inf:
            raise NothingToDraw(
                "No token could be drawn: its grammar, logit_bias or ignore_eos rule all of them out, or the model's "
                "numbers are no numbers any more. The answer was lost; ask again without them."
            )
        self._drawn += 1
        self._counts[token] += 1
        self._see(token)
        return self._told(logits, token)

    def _changed(self, logits: Tensor) -> Tensor:
        asked = self._asked
        scores = logits.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        if asked.logit_bias:
            ids = _ids(scores, list(asked.logit_bias))
            scores[ids] += scores.new_tensor(list(asked.logit_bias.values()))
        if asked.repetition_penalty != 1:
            ids = self._seen_ids(scores)
            seen = scores[ids]
            scores[ids] = (seen / asked.repetition_penalty).where(seen > 0, seen * asked.repetition_penalty)
        if self._counts and (asked.presence_penalty or asked.frequency_penalty):
            ids = _ids(scores, list(self._counts))
            counts = scores.new_tensor(list(self._counts.values()))
            scores[ids] -= asked.presence_penalty + asked.frequency_penalty * counts
        return scores

    def _seen_ids(self, like: Tensor) -> Tensor:
        if self._seen_index is None:
            self._seen_index = _ids(like, sorted(self._seen))
        return self._seen_index

    def _see(self, token: int) -> None:
        if token not in self._seen:
            self._seen.add(token)
            # A prompt has thousands of ids, and its index is not made anew for each token.
            if self._seen_index is not None:
                index = self._seen_index.new_empty(len(self._seen))
                index[:-1], index[-1] = self._seen_index, token
                self._seen_index = index

    def _chosen(self, scores: Tensor) -> int:
        asked = self._asked
        kept = min(asked.top_k or len(scores), len(scores))
        values, ids = scores.topk(kept)
        values, ids = values.cpu().double(), ids.cpu()
        weights = ((values - values[0]) / asked.temperature).exp()
        if asked.top_p < 1:
            count = int((weights.cumsum(0) / weights.sum() < asked.top_p).sum()) + 1
            weights, ids = weights[:count], ids[:count]
        if asked.min_p > 0:
            enough = weights >= asked.min_p
            weights, ids = weights[enough], ids[enough]
        ids, order = ids.sort()
        reached = weights[order].cumsum(0)
        number = uniform(self._seed, self._drawn) * float(reached[-1])
        return int(ids[min(int((reached <= number).sum()), len(ids) - 1)])

    def _told(self, logits: Tensor, token: int) -> Token:
        if self._asked.logprobs is None:
            return Token(token)
        logprobs = logits.log_softmax(-1)
        values, ids = logprobs.topk(min(self._asked.logprobs, len(logprobs)))
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return Token(token, float(logprobs[token]), top)


def _ids(like: Tensor, ids: Sequence[int]) -> Tensor:
    """Ids as an index, on the device of `like`; a float32 holds every one of them."""
    return like.new_tensor(ids).long()
