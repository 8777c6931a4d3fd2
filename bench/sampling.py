"""What drawing one token costs, for the usual settings. Prints microseconds, the median over many tokens.

The logits are made up: Zipf's law over shuffled ids, steep as after an unambiguous prefix, or shallow. `flat` is noise
without any favourite, the worst case for truncation.

python bench/sampling.py --vocabulary 151936 --prompt 2000
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quern.engine.cpu import _native

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, repetition penalty": {"repetition_penalty": 1.05},
    "default": {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
    "top-p 0.8": {"temperature": 0.7, "top_p": 0.8},
    "top-p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "min-p 0.05": {"temperature": 1.0, "min_p": 0.05},
    "no truncation": {"temperature": 1.0},
    "top-k 1000": {"temperature": 1.0, "top_k": 1000},
    "default, 5 logprobs": {
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "repetition_penalty": 1.05,
        "top_logprobs": 5,
    },
}
MASKS = {"": None, ", 97 % allowed": 0.97, ", 20 ids allowed": 20 / 151_936}
"""Shares of the ids that a grammar allows: inside of a JSON string, and between its parts."""
MASKED = ("greedy", "default", "no truncation")


def made_up_logits(vocabulary: int) -> dict[str, list[NDArray[np.float32]]]:
    """A few rows of each kind, so that no branch predictor learns one by heart."""
    random = np.random.default_rng(0)
    ranks = np.arange(1, vocabulary + 1)

    def row(steepness: float, noise: float) -> NDArray[np.float32]:
        logits = -steepness * np.log(ranks) + random.normal(0, noise, vocabulary)
        return random.permutation(logits).astype(np.float32)

    kinds = {"steep": (2.0, 0.5), "shallow": (1.1, 0.5), "flat": (0.0, 1.0)}
    return {kind: [row(*shape) for _ in range(8)] for kind, shape in kinds.items()}


def made_up_mask(vocabulary: int, share: float) -> bytes:
    """A bit for each id."""
    return np.packbits(np.random.default_rng(1).random(vocabulary) < share, bitorder="little").tobytes()


def microseconds(
    sampler: _native.Sampler, rows: list[NDArray[np.float32]], tokens: int, mask: bytes | None = None
) -> float:
    """The median time of one `sample`, and of one `allow` where there is a mask."""
    times: list[float] = []
    for n in range(tokens):
        started = time.perf_counter()
        if mask is not None:
            sampler.allow(mask)
        sampler.sample(rows[n % len(rows)])
        times.append((time.perf_counter() - started) * 1e6)
    return statistics.median(times)


def main() -> None:
    """Measure every setting on every kind of logits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--prompt", type=int, default=2000, help="distinct ids that the repetition penalty has seen")
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    kinds = made_up_logits(options.vocabulary)
    print(f"{'µs per token':32}" + "".join(f"{kind:>10}" for kind in kinds))
    for name, suffix in [(name, suffix) for name in SETTINGS for suffix in MASKS if not suffix or name in MASKED]:
        share = MASKS[suffix]
        mask = None if share is None else made_up_mask(options.vocabulary, share)
        cells: list[str] = []
        for rows in kinds.values():
            sampler = _native.Sampler(vocabulary_size=options.vocabulary, **SETTINGS[name])
            sampler.observe_prompt(range(options.prompt))
            cells.append(f"{microseconds(sampler, rows, options.tokens, mask):10.0f}")
        print(f"{name + suffix:32}" + "".join(cells))


if __name__ == "__main__":
    main()
