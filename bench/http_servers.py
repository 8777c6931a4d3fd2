"""HTTP servers under the same application: how fast they are, and what they do with what no well-behaved client sends.

Each server is a process of its own with the whole application on the fake engine; this process is the client. Speeds
are per second of the server's processor time (all its threads), in rounds that alternate the servers: events of many
chat streams at once, small requests on kept connections, to the application (`/health`) and to the bare server
(`/bare`, which the application never sees). Then a list of facts, each tried on a socket. A server that isn't
installed is skipped.

    python bench/http_servers.py --streams 300 --rounds 3
    python bench/http_servers.py --rounds 0            # the facts alone
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import statistics
import subprocess
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Any

import psutil
import uvicorn
import uvloop

from quern.app import Application
from quern.config import Settings
from quern.http_server.server import HttpServer
from streaming import read_all, serve

CONNECTIONS, REQUESTS = 32, 300
PATIENCE_SECONDS = 3.0
"""How long a fact is waited for. Where a server has a limit of time, it is set to one second."""
ENDLESS_BYTES = 32 * 2**20


class _Bench:
    """The application, and two paths of which it knows nothing: an answer at once, and one that breaks off."""

    def __init__(self, application: Application) -> None:
        self._application = application.asgi

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") not in {"/bare", "/broken"}:
            await self._application(scope, receive, send)
            return
        broken = scope["path"] == "/broken"
        headers = [(b"content-type", b"text/plain")] + ([] if broken else [(b"content-length", b"2")])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok", "more_body": broken})
        if broken:
            msg = "on purpose"
            raise ConnectionAbortedError(msg)


async def _ours(application: Application, settings: Settings, listener: socket) -> None:
    limits = settings.server.model_copy(update={"header_seconds": 1.0, "body_seconds": 1.0})
    await HttpServer(_Bench(application), limits, seconds_to_end=1).serve(sockets=[listener])


async def _uvicorn(application: Application, listener: socket, http: Any) -> None:
    config = uvicorn.Config(
        _Bench(application), http=http, ws="none", log_config=None, access_log=False, server_header=False
    )
    await uvicorn.Server(config).serve(sockets=[listener])


async def _h11(application: Application, _settings: Settings, listener: socket) -> None:
    await _uvicorn(application, listener, "h11")


async def _httptools(application: Application, _settings: Settings, listener: socket) -> None:
    await _uvicorn(application, listener, "httptools")


async def _granian(application: Application, settings: Settings, listener: socket) -> None:
    server_of, http_of = importlib.import_module("granian.server.embed"), importlib.import_module("granian.http")
    interfaces = importlib.import_module("granian.constants").Interfaces
    port = listener.getsockname()[1]
    listener.close()
    most = settings.server.max_connections
    server = server_of.Server(
        _Bench(application),
        port=port,
        interface=interfaces.ASGINL,
        backlog=most,
        backpressure=most,
        log_enabled=False,
        http1_settings=http_of.HTTP1Settings(header_read_timeout=1000, max_buffer_size=65536),
    )
    await server.serve()


SERVERS = {
    "quern": (_ours, "httptools"),
    "uvicorn+httptools": (_httptools, "httptools"),
    "uvicorn+h11": (_h11, "h11"),
    "granian": (_granian, "granian"),
}


@contextmanager
def _served(name: str, streams: int) -> Generator[tuple[int, psutil.Process]]:
    """A server's port and process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", name, "--streams", str(streams)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            if process.stdout is None:
                msg = "the server has no pipes"
                raise RuntimeError(msg)
            port = int(process.stdout.readline())
            asyncio.run(_until_ready(port))
            yield port, psutil.Process(process.pid)
        finally:
            process.kill()


async def _until_ready(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            with suppress(OSError):
                answer = await _answer(port, b"GET /bare HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                if answer and answer.endswith(b"ok"):
                    return
            await asyncio.sleep(0.05)


async def _small_requests(port: int, path: str) -> int:
    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = f"GET {path} HTTP/1.1\r\nhost: bench\r\nuser-agent: bench\r\naccept: */*\r\n\r\n".encode()
        for _ in range(REQUESTS):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        writer.close()
        return REQUESTS

    return sum(await asyncio.gather(*(one() for _ in range(CONNECTIONS))))


def _per_second(process: psutil.Process, work: Callable[[], Coroutine[Any, Any, int]]) -> float:
    before = process.cpu_times()
    count = uvloop.run(work())
    after = process.cpu_times()
    return count / (after.user + after.system - before.user - before.system)


def speeds(name: str, streams: int, tokens: int) -> tuple[float, float, float]:
    """Events, requests to the application, requests to the bare server, per second of the server's processor time."""
    with _served(name, streams) as (port, process):
        asyncio.run(read_all(port, 8, 8))
        return (
            _per_second(process, lambda: read_all(port, streams, tokens)),
            _per_second(process, lambda: _small_requests(port, "/health")),
            _per_second(process, lambda: _small_requests(port, "/bare")),
        )


async def _answer(port: int, *pieces: bytes, pause: float = 0.0) -> bytes | None:
    """What a server answers until it closes, or what there is when patience ends; None for nothing but an open end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)

    sending = asyncio.ensure_future(send())
    answer = b""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while block := await reader.read(65536):
                answer += block
    except TimeoutError:
        return answer or None
    except ConnectionError:
        return answer + b" reset"
    finally:
        sending.cancel()
        writer.close()
    return answer


def _told(answer: bytes | None) -> str:
    if answer is None:
        return "stays open"
    status = answer.split(b"\r\n")[0].split(b" ")
    return status[1].decode() if len(status) > 2 else "closed" if not answer else "reset"


async def _endless_header(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /bare HTTP/1.1\r\nhost: a\r\nx: ")
    answered = asyncio.ensure_future(reader.readline())
    sent = 0
    with suppress(ConnectionError):
        while sent < ENDLESS_BYTES and not answered.done():
            writer.write(b"x" * 2**18)
            await writer.drain()
            sent += 2**18
            await asyncio.sleep(0.001)
    await asyncio.wait([answered], timeout=1)
    told = "no answer"
    if answered.done() and answered.exception() is None and answered.result():
        told = answered.result().decode().split(" ")[1]
    answered.cancel()
    writer.close()
    return f"{told} after {sent / 2**20:.1f} MB"


CHAT = b'{"messages": [{"role": "user", "content": "hello"}], "stream": true}'
STREAM = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(CHAT)
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: %b\r\n"


async def facts(port: int, process: psutil.Process) -> dict[str, str]:
    """What a server does with each of these."""
    found: dict[str, str] = {}
    h2c = POST % b"Upgrade, HTTP2-Settings" + b"upgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n" + STREAM + b"\r\n" + CHAT
    found["an upgrade to h2c with a body"] = _told(await _answer(port, h2c))
    old = POST.replace(b"HTTP/1.1", b"HTTP/1.0") % b"close" + STREAM + b"\r\n" + CHAT
    answer = await _answer(port, old) or b""
    found["a stream for HTTP/1.0"] = "in chunks" if b"chunked" in answer.lower() else "ends with the connection"
    broken = await _answer(port, b"GET /broken HTTP/1.1\r\nhost: a\r\n\r\n") or b""
    whole = b"\r\n0\r\n\r\n" in broken or b"ok" not in broken
    found["an answer that breaks off"] = "looks whole or is lost" if whole else "is seen to break off"
    found["headers that stop"] = _told(await _answer(port, b"GET /bare HTTP/1.1\r\nhost: a\r\nx: "))
    trickle = [b"GET /bare HTTP/1.1\r\nhost: a\r\nx: ", *[b"x"] * 50]
    found["headers that trickle"] = _told(await _answer(port, *trickle, pause=0.1))
    found["a body that stops"] = _told(await _answer(port, POST % b"close" + b"content-length: 99\r\n\r\n{"))
    many = b"".join(b"x-%d: a\r\n" % number for number in range(2000))
    found["2,000 headers"] = _told(
        await _answer(port, b"GET /bare HTTP/1.1\r\nhost: a\r\nconnection: close\r\n" + many + b"\r\n")
    )
    before = process.memory_info().rss
    found["an endless header"] = await _endless_header(port)
    found["memory that it took"] = f"{(process.memory_info().rss - before) / 2**20:.0f} MB"
    both = b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    found["a length and chunks"] = _told(await _answer(port, POST % b"close" + both))
    piped = b"GET /bare HTTP/1.1\r\nhost: a\r\n\r\n" * 2 + b"GET /bare HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    found["three pipelined requests"] = f"{(await _answer(port, piped) or b'').count(b'ok')} answers"
    return found


def main() -> None:
    """Alternate the servers and print what each gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=200, help="of each answer, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.streams, SERVERS[options.serve][0]))
        return
    names: list[str] = []
    for name, (_, package) in SERVERS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{name} is left out: {package} is not installed here.")
        else:
            names.append(name)
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            rows[name].append(speeds(name, options.streams, options.tokens))
            print(f"round {number} {name:18} " + " ".join(f"{value:9.0f}" for value in rows[name][-1]), flush=True)
    if options.rounds:
        print("medians per second of processor time: events, requests to the application, requests to the bare server")
        for name in names:
            middle = [statistics.median(column) for column in zip(*rows[name], strict=True)]
            print(f"{name:18} " + " ".join(f"{value:9.0f}" for value in middle))
    for name in names:
        with _served(name, options.streams) as (port, process):
            for what, told in asyncio.run(facts(port, process)).items():
                print(f"{name:18} {what:32} {told}")


if __name__ == "__main__":
    main()
