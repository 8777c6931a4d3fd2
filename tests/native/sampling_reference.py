"""Sampling the naive way: double precision, one full sort. What the native sampler must agree with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
MASK = 0xFFFF_FFFF


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox 4x32-10 (Salmon et al., SC'11)."""
    a, b, c, d = counter
    first, second = key
    for _ in range(10):
        low, high = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (high >> 32) ^ b ^ first, high & MASK, (low >> 32) ^ d ^ second, low & MASK
        first, second = (first + 0x9E3779B9) & MASK, (second + 0xBB67AE85) & MASK
    return a, b, c, d


def uniform(seed: int, n: int) -> float:
    """The n-th number of a seed, in [0, 1)."""
    low, high, _, _ = philox4x32((n & MASK, n >> 32, 0, 0), (seed & MASK, seed >> 32))
    return ((high << 32 | low) >> 11) * 2.0**-53


@dataclass
class Settings:
    """The sampler's options, named as there."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    logit_bias: dict[int, float] = field(default_factory=dict[int, float])


@dataclass
class Choice:
    """A drawn id. `margin`: how near a cumulated probability came to where the choice would have been another."""

    id: int
    margin: float = 1.0


@dataclass
class NaiveSampler:
    """Draws as `quern.engine.cpu._native.Sampler` should."""

    settings: Settings
    prompt: list[int] = field(default_factory=list[int])
    generated: list[int] = field(default_factory=list[int])

    def sample(self, logits: Floats, allowed: Bools | None = None) -> Choice:
        """Draw the next token, of the allowed ids where only some are."""
        changed = self._changed(np.where(np.isnan(logits), np.float32(-np.inf), logits))
        if allowed is not None:
            changed = np.where(allowed, changed, np.float32(-np.inf))
        order = np.lexsort((np.arange(changed.size), -changed))
        order = order[changed[order] > -np.inf]
        choice = Choice(int(order[0])) if self.settings.temperature == 0 else self._draw(changed, order)
        self.generated.append(choice.id)
        return choice

    def _changed(self, logits: Floats) -> Floats:
        changed = logits.astype(np.float64)
        for token, bias in self.settings.logit_bias.items():
            changed[token] += bias
        for token in {*self.prompt, *self.generated}:
            penalty = self.settings.repetition_penalty
            changed[token] = changed[token] / penalty if changed[token] > 0 else changed[token] * penalty
        for token, count in Counter(self.generated).items():
            changed[token] -= self.settings.presence_penalty + self.settings.frequency_penalty * count
        return changed.astype(np.float32)

    def _draw(self, logits: Floats, order: NDArray[np.int64]) -> Choice:
        settings = self.settings
        kept = order[: settings.top_k] if settings.top_k else order
        weights = np.exp((logits[kept].astype(np.float64) - logits[kept[0]]) / settings.temperature)
        margins: list[float] = []
        if settings.top_p < 1:
            reached = np.cumsum(weights) / weights.sum()
            margins.append(float(np.abs(reached - settings.top_p).min()))
            count = int(np.searchsorted(reached, settings.top_p)) + 1
            kept, weights = kept[:count], weights[:count]
        if settings.min_p > 0:
            margins.append(float(np.abs(weights - settings.min_p)[weights < 1].min(initial=1)))
            kept, weights = kept[weights >= settings.min_p], weights[weights >= settings.min_p]
        by_id = np.argsort(kept)
        reached = np.cumsum(weights[by_id]) / weights.sum()
        number = uniform(settings.seed, len(self.generated))
        margins.append(float(np.abs(reached - number).min()))
        return Choice(int(kept[by_id][np.searchsorted(reached, number, side="right")]), min(margins))
