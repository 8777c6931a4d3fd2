"""Our own inference process: started, listened to and, when it is gone, explained."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import httpx2
import psutil
import structlog

from quern.engine.llamacpp.backend import Connected
from quern.engine.llamacpp.child import ChildConfig
from quern.engine.llamacpp.client import LlamaServer
from quern.engine.served.child_process import ChildProcess, how_it_ended, last_words, lost
from quern.errors import ModelCorrupt, ModelLoadError
from quern.modelfiles.gguf_header import check_magic
from quern.modelfiles.sizes import size_on_disk

log = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-P", "-m", "quern.engine.llamacpp.child")
# How long OpenMP's threads wait for each other by spinning. The library's own 300000 rounds are ten times slower, or
# worse, as soon as anything else wants a core; 1000 are about as long as it takes to put a thread to sleep.
SPINNING = {"GOMP_SPINCOUNT": "1000"}
MEASURE_SECONDS = 0.25
ASSUMED_BYTES_PER_SECOND = 300e6
OUT_OF_MEMORY = ("bad_alloc", "failed to allocate", "unable to allocate", "Cannot allocate")


class InferenceProcess:
    """A child process that serves a model file, one at a time. `hung_seconds`: it is given up where it answers nothing
    for so long, or while it loads takes neither time nor memory.
    """

    def __init__(
        self,
        model: Path,
        *,
        slots: int,
        kv_tokens: int,
        sequence_tokens: int,
        threads: int,
        batch_tokens: int,
        hung_seconds: float,
        embeds: bool = False,
    ) -> None:
        self._model = model
        self._hung_seconds = hung_seconds
        self._slots = slots
        self._kv_tokens = kv_tokens
        self._sequence_tokens = sequence_tokens
        self._threads = threads
        self._batch_tokens = batch_tokens
        self._embeds = embeds
        self._bytes = 0
        self._progress = 0.0
        self._child: ChildProcess | None = None
        self._server: LlamaServer | None = None
        self._load_stood = False

    @property
    def expected_load_seconds(self) -> float:
        """From the file's size."""
        return 1 + self._bytes / ASSUMED_BYTES_PER_SECOND

    def progress(self) -> float:
        """The child's memory against the file's size."""
        return self._progress

    async def start(self) -> Connected:
        """Start a child and wait until it has loaded the model. Raises ModelLoadError."""
        self._progress = 0.0
        self._bytes = await asyncio.to_thread(_size_of_gguf, self._model)
        try:
            return await self._load()
        except BaseException:
            await self.stop()
            raise

    async def lost(self) -> str:
        """Wait until the child has ended, or hangs."""
        if self._child is None or self._server is None:
            return "There is no inference process."
        return await lost(self._child, self._server.ready, self._hung_seconds)

    async def stop(self) -> None:
        """Kill the child."""
        if self._server is not None:
            await self._server.close()
        if self._child is not None:
            await self._child.stop()
        self._server = self._child = None
        self._progress = 0.0

    async def _load(self) -> Connected:
        key = secrets.token_urlsafe(32)
        self._child = child = await ChildProcess.start(
            COMMAND, on_line=lambda line: log.debug("llama_cpp_log", line=line), variables=SPINNING
        )
        line = await self._configure(child, key)
        if not line:
            code = await child.ended()
            if self._load_stood:
                raise ModelLoadError(load_stood(self._model, self._hung_seconds))
            raise ModelLoadError(explain_failed_load(code, child.last_lines, self._model, self._bytes))
        ready = json.loads(line)
        self._server = await asyncio.to_thread(
            LlamaServer, ready["address"], key, connections=self._slots, trust_env=False
        )
        try:
            facts = await self._server.facts()
        except (OSError, httpx2.HTTPError) as error:
            msg = (
                f"The inference process was lost right after it had loaded {self._model}.{last_words(child.last_lines)}"
            )
            raise ModelLoadError(msg) from error
        self._progress = 1.0
        return Connected(self._server, facts, describe_device(ready["system"], self._threads))

    async def _configure(self, child: ChildProcess, key: str) -> bytes:
        """Give the child its configuration; return the line that it prints when it is ready, or nothing."""
        config = ChildConfig(
            model=str(self._model),
            api_key=key,
            slots=self._slots,
            kv_tokens=self._kv_tokens,
            slot_tokens=self._sequence_tokens,
            threads=self._threads,
            batch_tokens=self._batch_tokens,
            embeds=self._embeds,
        )
        child.write_line(json.dumps(asdict(config)).encode())
        async with asyncio.TaskGroup() as group:
            measuring = group.create_task(self._measure(child))
            line = await child.read_line()
            measuring.cancel()
        return line

    async def _measure(self, child: ChildProcess) -> None:
        """Tell the progress by the child's memory; end one that stands."""
        first, used = await asyncio.to_thread(_resident_bytes_and_time, child.pid), (0, 0.0)
        self._load_stood, moved_at = False, time.monotonic()
        while True:
            before, used = used, await asyncio.to_thread(_resident_bytes_and_time, child.pid)
            now = time.monotonic()
            moved_at = now if used != before else moved_at
            if now - moved_at > self._hung_seconds and child.running:
                self._load_stood = True
                child.kill()
                return
            self._progress = min(max((used[0] - first[0]) / self._bytes, self._progress), 0.99)
            await asyncio.sleep(MEASURE_SECONDS)


def describe_device(system: str, threads: int) -> str:
    """What runs the model, for people, from llama.cpp's line of system information."""
    backends = [part.split(" : ")[0].strip() for part in system.split("|") if " : " in part]
    accelerators = [backend for backend in backends if backend != "CPU"]
    if accelerators:
        return ", ".join(accelerators)
    build = next((name for name in ("AVX512", "AVX2", "AVX", "NEON") if f"{name} = 1" in system), None)
    return f"CPU, {threads} threads" + (f" ({build} build)" if build else "")


def explain_failed_load(code: int, lines: Sequence[str], model: Path, size: int) -> str:
    """Why a child ended with `code` (negative: a signal) before it was ready, and what to do. `size` is in bytes."""
    if code == -signal.SIGILL:
        return (
            "This CPU lacks instructions (AVX2 on x86-64) that the inference library was built for. Run Quern on "
            "another machine, or a llama-server that was built for this one and set engine.url to it."
        )
    if code == -signal.SIGKILL or any(sign in line for line in lines for sign in OUT_OF_MEMORY):
        return (
            f"There was not enough memory to load {model}: the file has {size / 1e9:.1f} GB, and the KV cache "
            f"(engine.kv_tokens) comes on top. Choose a smaller model, lower engine.kv_tokens, or free some memory."
            f"{last_words(lines)}"
        )
    return (
        f"The model {model} could not be loaded: the inference process {how_it_ended(code)}. The file may be damaged "
        f"or of a kind that this version doesn't know; fetch it again or choose another model.{last_words(lines)}"
    )


def load_stood(model: Path, seconds: float) -> str:
    """Why a child was ended that was alive."""
    return (
        f"The model {model} could not be loaded: for {seconds:g} s (engine.hung_seconds) the inference process did "
        f"nothing at all, so it was ended. Either it was stopped, or the disk doesn't answer: check it, then try again."
    )


def _size_of_gguf(path: Path) -> int:
    """The file's size in bytes. Raises ModelLoadError where it isn't a GGUF file."""
    try:
        check_magic(path)
        return size_on_disk(path)
    except ModelCorrupt as error:
        raise ModelLoadError(str(error)) from error
    except OSError as error:
        msg = (
            f"The model file {path} can't be read: {error.strerror}. Fetch the model with `quern pull`, or correct the "
            f"setting model.name."
        )
        raise ModelLoadError(msg) from error


def _resident_bytes_and_time(pid: int) -> tuple[int, float]:
    """What a process has used so far: memory, and seconds of processors."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return process.memory_info().rss, times.user + times.system
    except psutil.Error:
        return 0, 0.0
