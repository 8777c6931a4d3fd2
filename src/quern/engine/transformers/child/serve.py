"""The process's main: reads what it is to serve, loads the model, serves it until standard input ends.

Standard input: one line of JSON, the fields of `ChildConfig`; then nothing, and its end ends the process. Standard
output: lines of JSON, `{"progress": 0.42}` while the model loads, then `{"address": ..., ...}` once it is ready. Logs
go to standard error.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .http import Application, Generator

PR_SET_PDEATHSIG = 1
BACKLOG = 512


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """What the process is to serve.

    `model`: a folder in Hugging Face's layout. `socket`: the path of the Unix socket to make; empty: a loopback port.
    `parallel`: sequences at once. `kv_tokens`: the KV cache. `sequence_tokens`: the most that one sequence may hold.
    `batch_tokens`: the most tokens of a step, 0 what suits the device. `threads`: of the CPU; 0 leaves them to
    PyTorch. `device`: a `device_map`. `end_ids`: the tokens that end an answer.
    """

    model: str
    api_key: str
    socket: str
    parallel: int
    kv_tokens: int
    sequence_tokens: int
    batch_tokens: int
    end_ids: Sequence[int]
    threads: int = 0
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False


def main() -> None:
    """Serve until standard input ends."""
    _belong_to_the_parent()
    config = ChildConfig(**json.loads(sys.stdin.buffer.readline()))
    if _standard_input_has_ended():
        sys.exit(1)
    answers = _reserve_standard_output()

    def tell(value: dict[str, Any]) -> None:
        os.write(answers, json.dumps(value).encode() + b"\n")

    def tell_progress(fraction: float) -> None:
        tell({"progress": round(fraction, 3)})

    batching: Any = importlib.import_module(f"{__package__}.batching")  # which imports what takes seconds
    try:
        generator = batching.load(config, tell_progress)
    except Exception as error:  # noqa: BLE001 (whatever a library raises: the parent has to hear of it)
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)
    listener, address = _listener(config.socket)
    threading.Thread(target=_serve, args=(generator, config.api_key, listener), daemon=True).start()
    tell({"address": address, **asdict(generator.facts)})
    sys.stdin.buffer.read()
    os._exit(0)  # an orderly end would wait for answers that nobody reads


def _serve(generator: Generator, key: str, listener: socket.socket) -> None:
    """Not in the main thread, where uvicorn would answer signals that are for the parent alone."""
    uvicorn: Any = importlib.import_module("uvicorn")
    config = uvicorn.Config(
        Application(generator, key),
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    try:
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
    finally:
        os._exit(1)


def _listener(path: str) -> tuple[socket.socket, str]:
    """A listening socket, and its address as a URL; that of a Unix socket is `unix:` and its path."""
    if not path:
        listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    Path(path).chmod(0o600)
    listener.listen(BACKLOG)
    return listener, f"unix:{path}"


def _belong_to_the_parent() -> None:
    """Die with the parent, also while loading, when nothing here can run; let only the parent decide when."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _standard_input_has_ended() -> bool:
    """True where the parent died before we asked to die with it."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLHUP)
    return bool(poll.poll(0))


def _reserve_standard_output() -> int:
    """Keep standard output for our lines: whatever a library prints goes to standard error."""
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers
