"""Ten times more callers than places: what becomes of those who are served, and of those who are refused.

    .venv/bin/python bench/overload.py --model qwen2.5-coder-0.5b

One server with few places (`--parallel` sequences, as many places to wait). First as many clients as there are places
ask, each again as soon as it is answered; then ten times as many, who come back when `Retry-After` says. Both phases
are taken in turn, `--rounds` times. Printed: tokens a second of all together, the seconds that an admitted answer took
from its first token to its last, the time of a refusal, and how long callers were told to wait over how long it was
until they were served.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import httpx2

from serving import Server, add_server_options, data_folder

CHAT = "/v1/chat/completions"
TOKENS = 48


@dataclass
class Phase:
    """What the clients of one phase saw. Times in seconds."""

    tokens: int = 0
    writing: list[float] = field(default_factory=list[float])
    refusals: list[float] = field(default_factory=list[float])
    told_and_took: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])


async def client(http: httpx2.AsyncClient, number: int, phase: Phase, until: float) -> None:
    """Ask, be refused or answered, ask again."""
    asked = 0
    while time.monotonic() < until:
        asked += 1
        body = {
            "messages": [{"role": "user", "content": f"Write the function number {number} of file {asked}."}],
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "stream": True,
        }
        first_refused: float | None = None
        told = 0.0
        while time.monotonic() < until:
            began = time.monotonic()
            async with http.stream("POST", CHAT, json=body) as answer:
                if answer.status_code == 503:
                    await answer.aread()
                    phase.refusals.append(time.monotonic() - began)
                    seconds = float(answer.headers["retry-after"])
                    if first_refused is None:
                        first_refused, told = began, seconds
                    await asyncio.sleep(seconds)
                    continue
                answer.raise_for_status()
                if first_refused is not None:
                    phase.told_and_took.append((told, began - first_refused))
                times = [time.monotonic() async for line in answer.aiter_lines() if '"content":"' in line]
                if time.monotonic() < until and len(times) > 1:
                    phase.tokens += TOKENS
                    phase.writing.append(times[-1] - times[0])
                break


async def run(url: str, clients: int, seconds: float) -> Phase:
    """So many clients for so long. What is not over then does not count."""
    phase, until = Phase(), time.monotonic() + seconds
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        tasks = [asyncio.ensure_future(client(http, number, phase, until)) for number in range(clients)]
        await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    for error in done:
        if isinstance(error, Exception):
            raise error
    return phase


@contextmanager
def server(arguments: argparse.Namespace) -> Generator[str]:
    """`quern serve` of its own: its address."""
    settings = {
        "QUERN_ENGINE__PARALLEL": str(arguments.parallel),
        "QUERN_TURNS__MAX_QUEUED": str(arguments.parallel),
        "QUERN_LOG__LEVEL": "error",
    }
    with data_folder(arguments.models_dir) as folder:
        running = Server(folder, arguments.model, "--engine", arguments.engine, **settings)
        running.start()
        try:
            yield running.url
        finally:
            running.end()


async def measure(arguments: argparse.Namespace) -> None:
    """Print a row for each phase, and what the second is of the first."""
    places = 2 * arguments.parallel
    print(
        f"{'callers':>8} {'tokens/s':>9} {'answer s':>9} {'refused':>8} {'refusal ms':>11} "
        f"{'took/told':>10} {'within 2':>9}"
    )
    speeds: list[float] = []
    durations: list[float] = []
    with server(arguments) as url:
        await run(url, places, arguments.seconds / 3)
        for _ in range(arguments.rounds):
            phases: list[Phase] = []
            for callers in (places, 10 * places):
                phase = await run(url, callers, arguments.seconds)
                phases.append(phase)
                ratios = [took / told for told, took in phase.told_and_took]
                within = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios) if ratios else 1.0
                print(
                    f"{callers:8} {phase.tokens / arguments.seconds:9.1f} {median(phase.writing or [0]):9.2f} "
                    f"{len(phase.refusals):8} {1000 * median(phase.refusals or [0]):11.1f} "
                    f"{median(ratios or [0]):10.2f} {within:9.0%}",
                    flush=True,
                )
                await asyncio.sleep(2)
            speeds.append(phases[1].tokens / max(1, phases[0].tokens))
            durations.append(median(phases[1].writing) / median(phases[0].writing))
    print(f"overload over capacity: tokens/s {median(speeds):.2f}, an answer's time {median(durations):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_options(parser)
    parser.add_argument("--parallel", type=int, default=4, help="Sequences at once, and places to wait.")
    parser.add_argument("--seconds", type=float, default=60, help="How long each phase lasts.")
    parser.add_argument("--rounds", type=int, default=3, help="How often both phases are run.")
    asyncio.run(measure(parser.parse_args()))
