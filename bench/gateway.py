"""What Quern costs in front of a server of completions: streams straight from it and through `remote`, in pairs.

The server runs already (a vLLM, say). Streams of both sides are asked for and read by the same client in this process,
in turns: all at once for the throughput, then one at a time for the first token. Straight from the server a prompt is
sent as token ids, so it has none to make there; through Quern it is text, as clients send it. Every prompt is another
one from its first words on, so that no cache helps. `--paced` starts a server that computes nothing and writes at the
pace of a GPU, a token of each stream every so many milliseconds: what is added there is Quern's alone, also on a
machine whose cores a model on CPUs would take.

    python bench/gateway.py --url http://127.0.0.1:8000 --model /srv/models/Qwen2.5-Coder-0.5B-Instruct --streams 32
    python bench/gateway.py --paced 16 --model qwen2.5-coder-0.5b
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from quern.config import Settings
from quern.models.locate import resolve
from quern.prompt.codec import TextCodec
from results import machine, write_json
from serving import Server, data_folder

PACED = Path(__file__).parents[1] / "tests" / "e2e" / "completions_process.py"
WORDS = ("sort", "parse", "merge", "queue", "token", "stream", "cache", "graph", "index", "table", "value", "field")


@dataclass(frozen=True, slots=True)
class Side:
    """Where streams come from. `ids`: prompts are sent as token ids, made by this codec."""

    http: httpx2.AsyncClient
    model: str
    ids: TextCodec | None = None

    async def stream(self, prompt: str, tokens: int) -> AsyncIterator[str]:
        """The texts of one answer. Raises RuntimeError where it is not of so many tokens."""
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": prompt if self.ids is None else self.ids.tokenizer.encode(prompt),
            "max_tokens": tokens,
            "temperature": 0,
            "repetition_penalty": 1.0,
            "ignore_eos": True,
            "stop_token_ids": [],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with self.http.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                raise RuntimeError(f"{answer.status_code}: {(await answer.aread()).decode()}")
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                for choice in event.get("choices") or ():
                    if choice.get("text"):
                        yield choice["text"]
                usage: dict[str, int] = event.get("usage") or {}
                told = usage.get("completion_tokens", tokens)
                if told != tokens:
                    raise RuntimeError(f"an answer has {told} tokens instead of {tokens}")


@dataclass(frozen=True, slots=True)
class Measured:
    """Of streams that ran at once: tokens per second of all together, and each one's seconds until its first text."""

    speed: float
    first: Sequence[float]


async def measure(side: Side, prompts: Sequence[str], tokens: int) -> Measured:
    """All prompts at once."""

    async def one(prompt: str) -> float:
        began, first = time.monotonic(), 0.0
        async for _ in side.stream(prompt, tokens):
            first = first or time.monotonic() - began
        return first

    began = time.monotonic()
    first = await asyncio.gather(*(one(prompt) for prompt in prompts))
    return Measured(len(prompts) * tokens / (time.monotonic() - began), first)


def prompts_of(number: int, count: int, words: int) -> list[str]:
    """Prompts that share no beginning with any other."""
    return [
        f"{number}.{index} " + " ".join(WORDS[(index + place * (number + 3)) % len(WORDS)] for place in range(words))
        for index in range(count)
    ]


def cpu_seconds(pid: int) -> float:
    """Of one process, so far."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@contextmanager
def upstream(options: argparse.Namespace, model: Path) -> Generator[str]:
    """The server's URL."""
    if options.paced is None:
        yield options.url
        return
    command = [sys.executable, str(PACED), str(model), "0", "--paced", str(options.paced)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


async def compare(direct: Side, through: Side, options: argparse.Namespace, pid: int) -> dict[str, Any]:
    """All rounds; prints each."""
    speeds: list[tuple[float, float]] = []
    firsts: list[tuple[float, float]] = []
    alone: list[tuple[float, float]] = []
    spent = 0.0
    for side in (direct, through):
        await measure(side, prompts_of(997, options.streams, options.words), 8)
    print("round   straight    Quern   ratio   first token: straight    Quern", flush=True)
    for number in range(options.rounds):
        there = await measure(direct, prompts_of(2 * number, options.streams, options.words), options.tokens)
        before = cpu_seconds(pid)
        here = await measure(through, prompts_of(2 * number + 1, options.streams, options.words), options.tokens)
        spent += cpu_seconds(pid) - before
        speeds.append((there.speed, here.speed))
        firsts.append((statistics.median(there.first), statistics.median(here.first)))
        print(
            f"{number:5} {there.speed:10.1f} {here.speed:8.1f} {here.speed / there.speed:7.3f} "
            f"{1000 * firsts[-1][0]:19.1f} ms {1000 * firsts[-1][1]:5.1f} ms",
            flush=True,
        )
    for number in range(options.alone):
        pair = [
            (await measure(side, prompts_of(1000 + 2 * number + index, 1, options.words), 4)).first[0]
            for index, side in enumerate((direct, through))
        ]
        alone.append((pair[0], pair[1]))
    tokens = options.rounds * options.streams * options.tokens
    return {
        "ratio": statistics.median(here / there for there, here in speeds),
        "first_ms_at_once": _added(firsts),
        "first_ms_alone": _added(alone),
        "quern_cpu_ms_per_token": 1000 * spent / tokens,
        "speeds": speeds,
        "first_at_once": firsts,
        "first_alone": alone,
    }


def _added(pairs: Sequence[tuple[float, float]]) -> float:
    """The median of what is added, in milliseconds."""
    return 1000 * statistics.median(here - there for there, here in pairs)


async def main() -> None:
    """Compare as the command line says."""
    options = _options()
    model = resolve(options.model, Settings().models_dir)
    if model is None:
        raise SystemExit(f"{options.model} is not here; fetch it first.")
    codec = await asyncio.to_thread(TextCodec.load, model)
    with upstream(options, model) as url, data_folder(Settings().models_dir) as folder:
        settings = {
            "QUERN_ENGINE__REMOTE__URLS": url,
            "QUERN_ENGINE__PARALLEL": str(options.streams),
            "QUERN_TURNS__MAX_QUEUED": str(2 * options.streams),
            "QUERN_LOG__LEVEL": "warning",
        }
        server = Server(folder, str(model), "--engine", "remote", **settings)
        await asyncio.to_thread(server.start)
        limits = httpx2.Limits(max_connections=None)
        try:
            async with (
                httpx2.AsyncClient(base_url=url, timeout=None, limits=limits) as straight,
                httpx2.AsyncClient(base_url=server.url, timeout=None, limits=limits) as ours,
            ):
                named = (await straight.get("/v1/models")).json()["data"][0]["id"]
                served = (await ours.get("/v1/models")).json()["data"][0]["id"]
                sides = Side(straight, named, codec), Side(ours, served)
                found = await compare(*sides, options, server.process.pid)
        finally:
            await asyncio.to_thread(server.end)
            codec.close()
    print(
        f"median ratio {found['ratio']:.3f}; first token {found['first_ms_at_once']:+.1f} ms with all at once, "
        f"{found['first_ms_alone']:+.1f} ms alone; {found['quern_cpu_ms_per_token']:.3f} ms of CPU a token"
    )
    write_json(options.json, {"machine": machine(), "options": {**vars(options), "json": None}, **found})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="of a server that runs")
    where.add_argument("--paced", type=float, help="milliseconds between a stream's tokens of a server of its own")
    parser.add_argument("--model", required=True, help="the same model for Quern: its vocabulary is what is read")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--words", type=int, default=60, help="of each prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", type=int, default=30, help="pairs of single streams, for the first token")
    parser.add_argument("--json", type=Path, help="write all figures there")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
