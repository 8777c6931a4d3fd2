"""What llama.cpp says, and how far it is from the reference."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

from quern.engine.llamacpp.process import SPINNING

from .reference import Array, log_softmax

SERVER = Path(__file__).with_name("llamacpp_server.py")


@dataclass(frozen=True, slots=True)
class Continuation:
    """What llama.cpp wrote after a prompt; `likeliest[i]` are the log-probabilities of the best ids for `ids[i]`."""

    ids: list[int]
    likeliest: list[dict[int, float]]


@contextmanager
def serving(model: Path) -> Generator[httpx2.Client]:
    """A client of llama.cpp's server with this model."""
    key = secrets.token_hex()
    with subprocess.Popen(
        [sys.executable, str(SERVER), str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **SPINNING},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(key + "\n")
            process.stdin.flush()
            address = next((line.split()[1] for line in process.stdout if line.startswith("address ")), None)
            assert address, "llama.cpp's server did not start"
            headers = {"Authorization": f"Bearer {key}"}
            with httpx2.Client(base_url=address, headers=headers, timeout=240, trust_env=False) as http:
                yield http
        finally:
            process.kill()


def greedy(model: Path, prompt: Sequence[int], tokens: int) -> Continuation:
    """The likeliest continuation, by llama.cpp."""
    body: dict[str, Any] = {"prompt": list(prompt), "n_predict": tokens, "n_probs": 10, "temperature": 0}
    with serving(model) as http:
        response = http.post("/completion", json=body | {"return_tokens": True, "ignore_eos": True})
        response.raise_for_status()
    steps = response.json()["completion_probabilities"]
    return Continuation(
        ids=[step["id"] for step in steps],
        likeliest=[{entry["id"]: entry["logprob"] for entry in step["top_logprobs"]} for step in steps],
    )


def differences(right: Array, said: Continuation) -> tuple[NDArray[np.float64], int]:
    """How far llama.cpp's log-probabilities are from the `right` logits of its steps: [steps, 10], and how many steps
    have the same best.
    """
    ours = log_softmax(right)
    apart = [
        [ours[step, token] - theirs for token, theirs in entry.items()] for step, entry in enumerate(said.likeliest)
    ]
    return np.asarray(apart), int(np.sum(ours.argmax(-1) == said.ids))
