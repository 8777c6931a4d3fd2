"""Events per second that one server process can stream: many chat completions at once on the fake engine.

The fake engine costs next to nothing, so what is measured is the way of a token from the engine's door to the socket.
The server is a process of its own and the reader another; they talk over a real socket. Each round starts a fresh
server for each side, in turn, so that two checkouts can be compared in one run. Prints per side the events per second
by the clock and per second of the server's processor time, which a busy machine disturbs less. `--metrics` compares a
server that is scraped every second with one that records nothing and is asked nothing.

    python bench/streaming.py --streams 1000 --rounds 5
    python bench/streaming.py --peer ../other-checkout/.venv/bin/python
    python bench/streaming.py --metrics
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop

from quern.app import Application
from quern.config import LogSettings, Settings
from quern.http_server.server import HttpServer
from quern.obs.logging import configure_logging
from quern.obs.metrics import Metrics
from quern.served_models import fake_model
from quern.turns import runner
from quern.turns.generation import Generation

TEXT = "a stream "
CONNECT_AT_ONCE = 50
SCRAPE_SECONDS = 1.0
SCRAPE = b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Round:
    """`events` that were streamed in `seconds` by the clock and `processor_seconds` of the server's."""

    events: int
    seconds: float
    processor_seconds: float


@dataclass(frozen=True, slots=True)
class Side:
    """A server to measure: the Python that runs it; whether it records metrics, and whether it is scraped meanwhile."""

    python: str
    recording: bool = True
    scraped: bool = False


class NoMetrics(Metrics):
    """Records nothing of turns and requests."""

    def __init__(self) -> None:
        super().__init__()
        nothing: Any = self
        self.first_token = self.event_loop_lag = nothing

    def observe(self, *_: Any) -> None:
        """Nothing."""

    turn_ended = request_ended = observe  # type: ignore[assignment]


class UntimedGeneration(Generation):
    """Asks no clock for each token, which only the metrics need."""

    def _arrive(self) -> None:
        if self._turn.first_token_at is None:
            self._turn.first_token_at = time.monotonic()


Serve = Callable[[Application, Settings, socket.socket], Awaitable[None]]


async def serve(streams: int, listen: Serve, *, recording: bool = True) -> None:
    """Be the server: print the port, then serve until standard input ends. `listen`: the HTTP server, until it ends."""
    metrics = Metrics() if recording else NoMetrics()
    if not recording:
        runner.Generation = UntimedGeneration
    configure_logging(LogSettings.model_validate({"level": "error"}))
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.model_validate(
            {
                "data_dir": folder,
                "engine": {"name": "fake"},
                "turns": {"max_queued": streams},
                "server": {"max_connections": 2 * streams, "max_connections_per_address": 2 * streams},
            }
        )
        # More sequences at once than the setting allows: all streams write at the same time.
        engine = settings.engine.model_copy(update={"parallel": streams})
        settings = settings.model_copy(update={"engine": engine})
        application = Application(settings, [fake_model(settings)], metrics=metrics)
        listener = socket.create_server(("127.0.0.1", 0), backlog=streams)
        async with application.running() as loading:
            await loading
            print(listener.getsockname()[1], flush=True)
            serving = asyncio.ensure_future(listen(application, settings, listener))
            await asyncio.to_thread(sys.stdin.read)
            serving.cancel()
            await asyncio.wait([serving])


async def quern_serve(application: Application, settings: Settings, listener: socket.socket) -> None:
    """Quern's own HTTP server."""
    await HttpServer(application.asgi, settings.server, seconds_to_end=1).serve(sockets=[listener])


def _request(tokens: int) -> bytes:
    prompt = (TEXT * (tokens // len(TEXT) + 1))[:tokens]
    body = json.dumps(
        {"messages": [{"role": "user", "content": prompt}], "stream": True, "max_completion_tokens": 2 * tokens}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
    return f"{head}content-type: application/json\r\nconnection: close\r\n\r\n".encode() + body


async def _read_stream(port: int, request: bytes, connecting: asyncio.Semaphore) -> int:
    """One stream, read to its end; returns how many events it had."""
    async with connecting:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        events = (await reader.readuntil(b"\r\n\r\n")).count(b"data: ")
    last = b""
    while block := await reader.read(2**16):
        joined = last + block
        events += joined.count(b"data: ")
        last = block[-5:]  # shorter than what is counted, so that nothing is counted twice
    writer.close()
    return events


async def read_all(port: int, streams: int, tokens: int, *, scraped: bool = False) -> int:
    """So many streams at once, read to their ends; returns how many events they had. `scraped`: with Prometheus."""
    connecting = asyncio.Semaphore(CONNECT_AT_ONCE)
    request = _request(tokens)
    async with _scraping(port) if scraped else _nothing():
        return sum(await asyncio.gather(*(_read_stream(port, request, connecting) for _ in range(streams))))


@asynccontextmanager
async def _nothing() -> AsyncGenerator[None]:
    yield


@asynccontextmanager
async def _scraping(port: int) -> AsyncGenerator[None]:
    async def scrape() -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(SCRAPE)
            if not (await reader.read()).startswith(b"HTTP/1.1 200"):
                msg = "the server does not show its metrics"
                raise RuntimeError(msg)
            writer.close()
            await asyncio.sleep(SCRAPE_SECONDS)

    scraping = asyncio.ensure_future(scrape())
    try:
        yield
    finally:
        scraping.cancel()
        with suppress(asyncio.CancelledError):
            await scraping


def measure(side: Side, streams: int, tokens: int) -> Round:
    """One round with a server."""
    command = [side.python, str(Path(__file__).resolve()), "--serve", "--streams", str(streams)]
    command += [] if side.recording else ["--record-nothing"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            if server.stdout is None:
                msg = "the server has no pipes"
                raise RuntimeError(msg)
            port = int(server.stdout.readline())
            asyncio.run(read_all(port, 8, 8))
            process = psutil.Process(server.pid)
            before, began = process.cpu_times(), time.monotonic()
            events = asyncio.run(read_all(port, streams, tokens, scraped=side.scraped))
            after, ended = process.cpu_times(), time.monotonic()
        finally:
            server.kill()
    spent = after.user + after.system - before.user - before.system
    return Round(events, ended - began, spent)


def main() -> None:
    """Alternate the sides and print what each gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=200, help="of each answer, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", help="the Python of another checkout, to compare with")
    parser.add_argument("--metrics", action="store_true", help="compare with a server that records no metrics")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--record-nothing", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.streams, quern_serve, recording=not options.record_nothing))
        return
    sides = {"this": Side(sys.executable, scraped=options.metrics)}
    if options.metrics:
        sides = {"without": Side(sys.executable, recording=False), **sides}
    elif options.peer:
        sides = {"peer": Side(options.peer), **sides}
    compare(sides, options)


def compare(sides: dict[str, Side], options: argparse.Namespace) -> None:
    """Measure the sides in turn, every second round the other way round, and print what each gave."""
    speeds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    print(f"{options.streams} streams of about {options.tokens} tokens; events/s, events per second of the processor")
    for number in range(options.rounds):
        for side in list(sides)[:: -1 if number % 2 else 1]:
            found = measure(sides[side], options.streams, options.tokens)
            speeds[side].append((found.events / found.seconds, found.events / found.processor_seconds))
            print(
                f"round {number} {side}: {found.events} events, {speeds[side][-1][0]:8.0f} {speeds[side][-1][1]:8.0f}"
            )
    for side, found in speeds.items():
        by_clock, by_processor = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"median {side}: {by_clock:8.0f} {by_processor:8.0f}")
    if len(sides) > 1:
        other = next(side for side in sides if side != "this")
        ratios = [this[1] / than[1] for this, than in zip(speeds["this"], speeds[other], strict=True)]
        print(f"median ratio to {other}, by processor time: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
