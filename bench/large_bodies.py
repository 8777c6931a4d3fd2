"""What large bodies cost a server: how much memory, and for how long everybody else's streams stand still.

Starts a server with a model's vocabulary and the fake engine, lets one chat stream from it, and sends several bodies of
eight megabytes at once, kind after kind. Prints for each kind the statuses, the seconds until the last answer, the
server's peak of memory over what it had before, and the longest gap between two events of the stream; the first row,
with no bodies, is what the machine itself does.

    python bench/large_bodies.py --model qwen2.5-coder-0.5b-instruct-q4_k_m.gguf
    python bench/large_bodies.py --model FILE --kinds spaces,values --at-once 16
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
import uvloop

from quern.app import Application
from quern.config import LogSettings, Settings
from quern.engine.fake import FakeEngine
from quern.http_server.server import HttpServer, freeze_garbage_collection
from quern.obs.logging import configure_logging
from quern.prompt.codec import TextCodec
from quern.turns.models import ServedModel

SIZE = 8 * 2**20 - 1024
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
CHAT, TOKENIZE, COUNT = "/v1/chat/completions", "/tokenize", "/v1/messages/count_tokens"
WORDS = "def add(a, b):\n    return a + b  # the sum\n"
TOKEN_SECONDS = 0.005
SAMPLE_SECONDS = 0.01
SETTLE_SECONDS = 3.0
QUIET_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A large request."""

    path: str
    body: bytes
    content_type: str = JSON


def _chat(text: str) -> Kind:
    return Kind(CHAT, json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode())


def _filled(opening: str, piece: str, closing: str) -> bytes:
    return (opening + piece * ((SIZE - len(opening) - len(closing)) // len(piece.encode())) + closing).encode()


def _messages() -> Kind:
    message = {"role": "user", "content": "hello " * 130}
    return Kind(CHAT, json.dumps({"messages": [message] * (SIZE // 820)}).encode())


KINDS: dict[str, Callable[[], Kind]] = {
    "words": lambda: _chat((WORDS * (SIZE // len(WORDS)))[: SIZE * 9 // 10]),
    "letters": lambda: _chat("a" * SIZE),
    "letters that may fit": lambda: _chat("a" * 1_200_000),
    "spaces": lambda: _chat(" " * SIZE),
    "spaces that may fit": lambda: Kind(TOKENIZE, json.dumps({"content": " " * 4_000_000}).encode()),
    "chinese": lambda: _chat("写一个冒泡排序" * (SIZE // 21)),
    "one emoji": lambda: _chat("😀" + "a" * (SIZE - 200)),
    "escapes": lambda: Kind(CHAT, _filled('{"messages":[{"role":"user","content":"', "\\u4e2d", '"}]}')),
    "messages": _messages,
    "values": lambda: Kind(CHAT, _filled('{"messages":[', "[],", "0]}")),
    "values that are few enough": lambda: Kind(CHAT, b'{"messages":[' + b"{}," * 190_000 + b"0]}"),
    "metadata": lambda: Kind(
        CHAT, _filled('{"messages":[{"role":"user","content":"hi"}],"max_tokens":1,"x":"', "y", '"}')
    ),
    "ids": lambda: Kind("/v1/completions", b'{"prompt":[' + b"1," * 390_000 + b"1]}"),
    "tokenize with pieces": lambda: Kind(TOKENIZE, _filled('{"with_pieces":true,"content":"', "word ", '"}')),
    "count": lambda: Kind(COUNT, _filled('{"messages":[{"role":"user","content":"', "word ", '"}]}')),
    "form": lambda: Kind("/v1/code/generate", _filled("prompt=", "%41", ""), FORM),
    "infill": lambda: Kind("/infill", _filled('{"input_suffix":"","input_prefix":"', "word ", '"}')),
    "conversation items": lambda: Kind(
        "/v1/conversations", _filled('{"items":[{"type":"message","role":"user","content":"', "word ", '"}]}')
    ),
}


@dataclass
class Watch:
    """The highest memory of a server's processes, and the longest gap of a stream, since `begin`."""

    process: psutil.Process
    peak: int = 0
    gap: float = 0.0
    last: float = 0.0
    gaps: list[float] = field(default_factory=list[float])

    def begin(self) -> int:
        """Forget what was; returns the memory now."""
        self.gap, self.last, self.gaps = 0.0, time.monotonic(), []
        self.peak = self.memory()
        return self.peak

    def memory(self) -> int:
        """Bytes now."""
        total = 0
        for process in [self.process, *self.process.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    async def sample(self) -> None:
        """Look at the memory again and again."""
        while True:
            self.peak = max(self.peak, await asyncio.to_thread(self.memory))
            await asyncio.sleep(SAMPLE_SECONDS)

    def event(self) -> None:
        """Something came."""
        now = time.monotonic()
        self.gaps.append(now - self.last)
        self.gap, self.last = max(self.gap, now - self.last), now


async def stream(client: httpx2.AsyncClient, watch: Watch) -> None:
    """Read chats, one after the other, for ever."""
    body = {"messages": [{"role": "user", "content": "Count to a thousand."}], "stream": True, "max_tokens": 4000}
    while True:
        async with client.stream("POST", CHAT, json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    watch.event()
        watch.last = time.monotonic()


async def send(client: httpx2.AsyncClient, kind: Kind, at_once: int) -> Counter[str]:
    """The statuses of so many requests; an answer that ends with the connection is one too."""

    async def one() -> str:
        try:
            headers = {"content-type": kind.content_type}
            return str((await client.post(kind.path, content=kind.body, headers=headers)).status_code)
        except httpx2.HTTPError as error:
            return type(error).__name__

    return Counter(await asyncio.gather(*(one() for _ in range(at_once))))


async def serve(model: Path) -> None:
    """Be the server: print the port, then serve until standard input ends."""
    configure_logging(LogSettings.model_validate({"level": "error"}))
    codec = TextCodec.load(model)
    engine = FakeEngine(
        token_delay=TOKEN_SECONDS, vocabulary_size=codec.vocabulary_size, reply=lambda _: [100] * 100_000
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.model_validate({"data_dir": folder, "turns": {"loop_repeats": 0}})
        application = Application(settings, [ServedModel("fake", engine, codec)])
        listener = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(application.asgi, settings.server, seconds_to_end=1)
        async with application.running() as loading:
            await loading
            freeze_garbage_collection()
            print(listener.getsockname()[1], flush=True)
            serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
            await asyncio.to_thread(sys.stdin.read)
            server.should_exit = True
            await serving


@contextmanager
def server(model: Path) -> Generator[tuple[str, psutil.Process]]:
    """A server of its own, in a process of its own: its address, and the process."""
    command = [sys.executable, __file__, "--serve", "--model", str(model)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        port = process.stdout.readline().strip() if process.stdout else ""
        if not port:
            sys.exit("The server did not start.")
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


async def measure(arguments: argparse.Namespace) -> None:
    """Print a row for each kind."""
    print(f"{'kind':28} {'statuses':24} {'seconds':>8} {'peak MB':>8} {'gap ms':>8}")
    with server(arguments.model) as (url, process):
        await _measure_kinds(url, process, arguments)


async def _measure_kinds(url: str, process: psutil.Process, arguments: argparse.Namespace) -> None:
    async with asyncio.TaskGroup() as tasks:
        watch = Watch(process)
        client = httpx2.AsyncClient(base_url=url, timeout=None, limits=httpx2.Limits(max_connections=None))
        background = [tasks.create_task(stream(client, watch)), tasks.create_task(watch.sample())]
        await asyncio.sleep(SETTLE_SECONDS)
        for name in ["", *arguments.kinds.split(",")] if arguments.kinds else ["", *KINDS]:
            kind = KINDS[name]() if name else None
            await asyncio.sleep(SETTLE_SECONDS)
            idle, started = watch.begin(), time.monotonic()
            if kind is None:
                statuses: Counter[str] = Counter()
                await asyncio.sleep(QUIET_SECONDS)
            else:
                statuses = await send(client, kind, arguments.at_once)
            seconds = time.monotonic() - started
            shown = " ".join(f"{status}x{count}" for status, count in statuses.items()) or "-"
            gap = max(watch.gap, time.monotonic() - watch.last)
            print(f"{name or 'none':28} {shown:24} {seconds:8.2f} {(watch.peak - idle) / 1e6:8.0f} {gap * 1000:8.0f}")
        for task in background:
            task.cancel()
        await client.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="A model's file or folder, for its vocabulary.")
    parser.add_argument("--kinds", default="", help="Of the kinds only these, separated by commas.")
    parser.add_argument("--at-once", type=int, default=8, help="Bodies that are sent at once.")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    uvloop.run(serve(given.model) if given.serve else measure(given))
