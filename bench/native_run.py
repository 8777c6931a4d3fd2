"""Our engine's side of a measurement, in a process of its own: `_native.Model` alone, without scheduler or server.

Reads one JSON object from standard input:

    {"model": PATH, "threads": 2, "kv_type": "bf16", "workloads": [{"prompts": [[ids], ...], "generated": 64}, ...]}

Loads the model once, draws one token as a warm-up, and prints one JSON line about that and one for each workload.
`sides.measure_quern` is the other end. Little but the native module is imported: the memory measured is the engine's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quern.engine.cpu._native import BLOCK_TOKENS, Item, Model, Sampler
from workloads import prefill_steps

WARM_UP_TOKENS = 16  # as many as llama-batched-bench warms up with


class Lane:
    """One sequence: its prompt, its KV blocks, and where it is."""

    def __init__(self, prompt: Sequence[int], blocks: Sequence[int], sampler: Sampler) -> None:
        self._prompt = prompt
        self._blocks = blocks
        self._sampler = sampler
        self._position = len(prompt)
        self._last = 0

    def prefill(self, start: int, stop: int) -> Item:
        """Compute a part of the prompt; the last part draws the first token."""
        whole = stop == len(self._prompt)
        return Item(self._prompt[start:stop], start, self._blocks, self._sampler if whole else None)

    def decode(self) -> Item:
        """Compute the token drawn last, and draw the next."""
        self._position += 1
        return Item([self._last], self._position - 1, self._blocks, self._sampler)

    def drew(self, token_id: int) -> None:
        """Keep what was drawn for the next step."""
        self._last = token_id


def blocks_for(tokens: int) -> int:
    """KV blocks that hold this many tokens."""
    return -(-tokens // BLOCK_TOKENS)


def lanes_for(model: Model, prompts: Sequence[Sequence[int]], generated: int) -> list[Lane]:
    """A lane for each prompt, greedy, with room for all that it will hold."""
    lanes: list[Lane] = []
    taken = 0
    for prompt in prompts:
        blocks = blocks_for(len(prompt) + generated)
        sampler = Sampler(vocabulary_size=model.vocabulary_size)
        lanes.append(Lane(prompt, range(taken, taken + blocks), sampler))
        taken += blocks
    return lanes


def step(model: Model, lanes: Sequence[Lane], items: Sequence[Item]) -> None:
    """Compute `items`, one for each of `lanes`."""
    for lane, tokens in zip(lanes, model.forward(items), strict=True):
        if tokens:
            lane.drew(tokens[-1].id)


def run(model: Model, prompts: Sequence[Sequence[int]], generated: int) -> dict[str, float]:
    """Compute one workload and tell how long its two phases took, in seconds."""
    lanes = lanes_for(model, prompts, generated)
    started = time.monotonic()
    for parts in prefill_steps([len(prompt) for prompt in prompts]):
        items = [lanes[index].prefill(start, stop) for index, start, stop in parts]
        step(model, [lanes[index] for index, _, _ in parts], items)
    prefilled = time.monotonic()
    for _ in range(generated):
        step(model, lanes, [lane.decode() for lane in lanes])
    return {"prefill_seconds": prefilled - started, "decode_seconds": time.monotonic() - prefilled}


def peak_bytes() -> int:
    """The most memory that this process has had resident, mapped files included."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM: peak memory can be measured on Linux only")


def main() -> None:
    """Load, warm up, run every workload."""
    job: dict[str, Any] = json.load(sys.stdin)
    workloads: list[dict[str, Any]] = job["workloads"]
    needed = [sum(blocks_for(len(prompt) + work["generated"]) for prompt in work["prompts"]) for work in workloads]
    started = time.monotonic()
    model = Model(
        job["model"], threads=job["threads"], kv_tokens=max(needed) * BLOCK_TOKENS, kv_type=job.get("kv_type", "bf16")
    )
    loaded = time.monotonic()
    run(model, [workloads[0]["prompts"][0][:WARM_UP_TOKENS]], 0)
    facts = {
        "load_seconds": loaded - started,
        "first_token_seconds": time.monotonic() - started,
        "isa": model.isa,
        "kv_bytes_per_token": model.kv_bytes_per_token,
        "weight_bytes": model.weight_bytes,
    }
    print(json.dumps(facts), flush=True)
    for work in workloads:
        print(json.dumps(run(model, work["prompts"], work["generated"]) | {"peak_bytes": peak_bytes()}), flush=True)


if __name__ == "__main__":
    main()
