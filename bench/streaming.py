"""Events per second that one server process can stream: many chat completions at once on the fake engine.

The fake engine costs next to nothing, so what is measured is the way of a token from the engine's door to the socket.
The server is a process of its own and the reader another; they talk over a real socket. Each round starts a fresh
server for each side, in turn, so that two checkouts can be compared in one run. Prints per side the events per second
by the clock and per second of the server's processor time, which a busy machine disturbs less.

    python bench/streaming.py --streams 1000 --rounds 5
    python bench/streaming.py --peer ../other-checkout/.venv/bin/python
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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvloop

from quern.app import Application, build_app
from quern.config import LogSettings, Settings
from quern.http_server.server import HttpServer
from quern.obs.logging import configure_logging

TEXT = "a stream "
CONNECT_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Round:
    """`events` that were streamed in `seconds` by the clock and `processor_seconds` of the server's."""

    events: int
    seconds: float
    processor_seconds: float


Serve = Callable[[Application, Settings, socket.socket], Awaitable[None]]


async def serve(streams: int, listen: Serve) -> None:
    """Be the server: print the port, then serve until standard input ends. `listen`: the HTTP server, until it ends."""
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
        application = build_app(settings.model_copy(update={"engine": engine}), None)
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


async def read_all(port: int, streams: int, tokens: int) -> int:
    """So many streams at once, read to their ends; returns how many events they had."""
    connecting = asyncio.Semaphore(CONNECT_AT_ONCE)
    request = _request(tokens)
    return sum(await asyncio.gather(*(_read_stream(port, request, connecting) for _ in range(streams))))


def measure(python: str, streams: int, tokens: int) -> Round:
    """One round with the server that `python` runs."""
    command = [python, str(Path(__file__).resolve()), "--serve", "--streams", str(streams)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            if server.stdout is None:
                msg = "the server has no pipes"
                raise RuntimeError(msg)
            port = int(server.stdout.readline())
            asyncio.run(read_all(port, 8, 8))
            process = psutil.Process(server.pid)
            before, began = process.cpu_times(), time.monotonic()
            events = asyncio.run(read_all(port, streams, tokens))
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
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.streams, quern_serve))
        return
    sides = {"peer": options.peer, "this": sys.executable} if options.peer else {"this": sys.executable}
    speeds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    print(f"{options.streams} streams of about {options.tokens} tokens; events/s, events per second of the processor")
    for number in range(options.rounds):
        for side, python in sides.items():
            found = measure(python, options.streams, options.tokens)
            speeds[side].append((found.events / found.seconds, found.events / found.processor_seconds))
            print(
                f"round {number} {side}: {found.events} events, {speeds[side][-1][0]:8.0f} {speeds[side][-1][1]:8.0f}"
            )
    for side, found in speeds.items():
        by_clock, by_processor = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"median {side}: {by_clock:8.0f} {by_processor:8.0f}")
    if options.peer:
        ratios = [this[1] / peer[1] for this, peer in zip(speeds["this"], speeds["peer"], strict=True)]
        print(f"median ratio, by processor time: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
