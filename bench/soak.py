"""A server under mixed clients for as long as you like: streams read to their end, cut, followed again and gone on
with, tools, gaps filled, conversations that grow and are deleted. Prints memory, threads, descriptors and the size of
the database.

    .venv/bin/python bench/soak.py --minutes 60 --model qwen2.5-coder-0.5b

What grows is told at the end: the medians of the second and of the last quarter of the time, per row, and their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import psutil

from kills import Seen, ask, asks, follow, server_on
from serving import add_server_options, data_folder

SAMPLE_SECONDS = 10.0
KV_TOKENS = "16384"
"""So small that the cache is full after minutes: it is memory that is touched once and kept."""


@dataclass(frozen=True)
class Sample:
    """What the server takes. Sizes in MB; `bytes_per_turn`: of the database, over all turns so far."""

    rss: float
    threads: float
    descriptors: float
    children: float
    database: float
    bytes_per_turn: float


class Clients:
    """Do one thing after the other, whichever chance says."""

    def __init__(self, http: httpx2.AsyncClient, chance: random.Random) -> None:
        self._http = http
        self._chance = chance
        self._load = asks(5, 100)
        self._conversation: list[str] = []
        self.done = Counter[str]()

    async def live(self, until: float) -> None:
        """Until the time is over."""
        kinds: list[Callable[[], Any]] = [self._whole, self._whole, self._cut, self._resumed, self._talk, self._forget]
        while time.monotonic() < until:
            kind = self._chance.choice(kinds)
            with suppress(httpx2.HTTPError):
                await kind()
            self.done[kind.__name__.strip("_")] += 1

    async def _whole(self) -> None:
        await ask(self._http, Seen(self._chance.choice(self._load)))

    async def _cut(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._chance.uniform(0.05, 2.0)):
                await self._whole()

    async def _resumed(self) -> None:
        seen = Seen(self._chance.choice(self._load))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._chance.uniform(0.5, 2.0)):
                await ask(self._http, seen)
        if seen.turn_id:
            await self._http.post(f"/v1/turns/{seen.turn_id}/cancel")
            await self._http.post(f"/v1/turns/{seen.turn_id}/continue", json={})
            await follow(self._http, seen.turn_id)

    async def _talk(self) -> None:
        form = {"prompt": "And now in Go.", "max_tokens": "60"}
        if self._conversation and self._chance.random() < 0.7:
            form["conversation_id"] = self._chance.choice(self._conversation)
        answer = await self._http.post("/v1/code/chat_stream", data=form)
        if answer.status_code == 200 and "conversation_id" not in form:
            self._conversation.append(answer.text.partition("\n---\n")[0].removeprefix("conversation_id:"))

    async def _forget(self) -> None:
        if len(self._conversation) > 20:
            gone = self._conversation.pop(self._chance.randrange(len(self._conversation)))
            await self._http.delete(f"/v1/conversations/{gone}")


def sample(process: psutil.Process, database: Path, turns: int) -> Sample:
    """The server now."""
    children = process.children(recursive=True)
    size = 0
    for file in database.parent.glob("quern.db*"):
        with suppress(FileNotFoundError):  # the journal's come and go
            size += file.stat().st_size
    rss = process.memory_info().rss + sum(child.memory_info().rss for child in children)
    return Sample(
        rss / 2**20, process.num_threads(), process.num_fds(), len(children), size / 2**20, size / max(1, turns)
    )


async def soak(options: argparse.Namespace, folder: Path) -> list[Sample]:
    """All samples."""
    server = server_on(folder, options, QUERN_ENGINE__KV_TOKENS=KV_TOKENS, QUERN_STORE__RESERVE_MIB="0")
    server.start()
    process = psutil.Process(server.process.pid)
    chance, until = random.Random(options.seed), time.monotonic() + 60 * options.minutes
    samples: list[Sample] = []
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, timeout=600, limits=limits) as http:
        clients = Clients(http, chance)
        living = [asyncio.ensure_future(clients.live(until)) for _ in range(options.clients)]
        while time.monotonic() < until:
            await asyncio.sleep(SAMPLE_SECONDS)
            samples.append(sample(process, folder / "quern.db", clients.done.total()))
            print(f"{dict(clients.done)} {samples[-1]}", flush=True)
        await asyncio.gather(*living)
    server.end()
    return samples


def main() -> None:
    """Soak, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    add_server_options(parser)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with data_folder(options.models_dir) as folder:
        samples = asyncio.run(soak(options, folder))
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    for index, part in enumerate(fields(Sample)):
        before, after = (median(astuple(one)[index] for one in part_of) for part_of in (early or samples, late))
        print(f"{part.name:16} {before:12.1f} {after:12.1f} {after / before if before else 1.0:8.2f}")


if __name__ == "__main__":
    main()
