"""The child's sampler against the naive one that the native sampler has to agree with, too."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.native.sampling_reference import NaiveSampler, Settings
from tests.native.sampling_reference import uniform as naive_uniform

from quern.config import Settings as QuernSettings
from quern.engine.environments.place import environment_python
from quern.engine.transformers import child
from quern.engine.transformers.child.sampling import uniform

SCRIPT = Path(__file__).with_name("drawing.py")
CHILD = Path(child.__file__).parent
SIZE = 300
PROMPT = [3, 3, 5, 7, 11]


class Drawing:
    """A process that draws."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, rows: Any, allowed: list[int] | None = None, **asked: Any) -> list[Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        values = {"prompt": PROMPT, **asked}
        case = {"parent": str(CHILD.parent), "asked": values, "rows": rows.tolist(), "allowed": allowed}
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def draw() -> Iterator[Drawing]:
    python = environment_python(QuernSettings().engines_dir, "transformers")
    if python is None:
        pytest.fail("there is no environment with Transformers; `quern engines install transformers --cpu` makes it")
    command = [str(python), "-P", str(SCRIPT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Drawing(process)
        process.kill()


def rows(seed: int, count: int = 6) -> Any:
    return np.random.default_rng(seed).normal(0, 3, (count, SIZE)).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 2**32 - 1, 2**40])
def test_the_random_numbers_are_those_of_the_native_sampler(n: int) -> None:
    for seed in (0, 1, 2**64 - 1):
        assert uniform(seed, n) == naive_uniform(seed, n)


@pytest.mark.engines
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": -0.4},
        {"temperature": 0.7},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
        {"temperature": 1.5, "min_p": 0.05},
        {"temperature": 1.0, "top_p": 0.5, "logit_bias": {5: 4.0, 6: -100.0}},
        {"temperature": 2.0, "top_k": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("allowed", [None, list(range(0, SIZE, 3))], ids=["free", "grammar"])
def test_every_draw_is_the_naive_samplers(draw: Drawing, options: dict[str, Any], allowed: list[int] | None) -> None:
    for seed in range(5):
        logits = rows(seed)
        naive = NaiveSampler(Settings(seed=seed, **options), list(PROMPT))
        mask = None if allowed is None else np.isin(np.arange(SIZE), allowed)
        expected = [naive.sample(row, mask) for row in logits]
        got = [token for token, _, _ in draw(logits, allowed, **{"temperature": 0.0, **options, "seed": seed})]
        assert [token for token, choice in zip(got, expected, strict=True) if choice.margin > 1e-5] == [
            choice.id for choice in expected if choice.margin > 1e-5
        ]


@pytest.mark.engines
def test_probabilities_are_told_from_before_temperature_and_penalties(draw: Drawing) -> None:
    (row,) = logits = rows(1, 1)
    truth = row - np.log(np.exp(row.astype(np.float64)).sum())
    ((token, logprob, top),) = draw(logits, temperature=0.2, top_k=5, repetition_penalty=2.0, logprobs=3, seed=1)
    assert logprob == pytest.approx(truth[token], abs=1e-4)
    assert [one for one, _ in top] == np.argsort(-truth)[:3].tolist()
    assert [value for _, value in top] == pytest.approx(np.sort(truth)[::-1][:3].tolist(), abs=1e-4)


@pytest.mark.engines
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_where_nothing_can_be_drawn_the_answer_fails_alone(draw: Drawing, temperature: float) -> None:
    (failure,) = draw(rows(1, 1), [], temperature=temperature)
    assert "No token could be drawn" in failure
    (failure,) = draw(np.full((1, SIZE), math.nan, np.float32), temperature=temperature)
    assert "No token could be drawn" in failure
