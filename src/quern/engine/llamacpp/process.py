"""Our own inference process: started, listened to and, when it is gone, explained."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import httpx2
import psutil
import structlog

from quern.engine.llamacpp.backend import Connected, hangs
from quern.engine.llamacpp.child import ChildConfig
from quern.engine.llamacpp.client import LlamaServer
from quern.environment import child_environment
from quern.errors import ModelCorrupt, ModelLoadError
from quern.modelfiles.gguf_header import check_magic
from quern.modelfiles.sizes import size_on_disk

log = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-P", "-m", "quern.engine.llamacpp.child")
# How long OpenMP's threads wait for each other by spinning. The library's own 300000 rounds are ten times slower, or
# worse, as soon as anything else wants a core; 1000 are about as long as it takes to put a thread to sleep.
SPINNING = {"GOMP_SPINCOUNT": "1000"}
REMEMBERED_LINES = 8
LONGEST_LINE = 2**20
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
        self._child: asyncio.subprocess.Process | None = None
        self._logs: asyncio.Task[None] | None = None
        self._last_lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
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
        if self._child is None or self._logs is None or self._server is None:
            return "There is no inference process."
        ended = asyncio.ensure_future(self._child.wait())
        hung = asyncio.ensure_future(hangs(self._server, self._hung_seconds))
        try:
            await asyncio.wait([ended, hung], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                return f"The inference process has answered nothing for {self._hung_seconds:g} s (engine.hung_seconds)."
            await asyncio.wait([self._logs])
            return f"The inference process {_how(ended.result())}.{last_words(self._last_lines)}"
        finally:
            ended.cancel()
            hung.cancel()
            await asyncio.gather(ended, hung, return_exceptions=True)

    async def stop(self) -> None:
        """Kill the child: it holds nothing that would need saving."""
        if self._server is not None:
            await self._server.close()
        if self._child is not None and self._child.stdin is not None:
            if self._child.returncode is None:
                self._child.kill()
            self._child.stdin.close()
            await self._child.wait()
        if self._logs is not None:
            await self._logs
        self._server = self._child = self._logs = None
        self._progress = 0.0

    async def _load(self) -> Connected:
        key = secrets.token_urlsafe(32)
        line = await self._spawn(key)
        if not line:
            code = await self._child.wait() if self._child is not None else 0
            if self._logs is not None:
                await self._logs
            if self._load_stood:
                raise ModelLoadError(load_stood(self._model, self._hung_seconds))
            raise ModelLoadError(explain_failed_load(code, self._last_lines, self._model, self._bytes))
        ready = json.loads(line)
        self._server = await asyncio.to_thread(
            LlamaServer, ready["address"], key, connections=self._slots, trust_env=False
        )
        try:
            facts = await self._server.facts()
        except (OSError, httpx2.HTTPError) as error:
            msg = (
                f"The inference process was lost right after it had loaded {self._model}.{last_words(self._last_lines)}"
            )
            raise ModelLoadError(msg) from error
        self._progress = 1.0
        return Connected(self._server, facts, describe_device(ready["system"], self._threads))

    async def _spawn(self, key: str) -> bytes:
        """Start the child with its configuration; return the line that it prints when it is ready, or nothing."""
        pipe = asyncio.subprocess.PIPE
        # A session of its own: Ctrl-C is for the server, which lets running turns finish first.
        try:
            self._child = await asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                limit=LONGEST_LINE,
                start_new_session=True,
                env=SPINNING | child_environment(),
            )
        except OSError as error:
            msg = f"The inference process can't be started: {error.strerror}. Free some memory, then try again."
            raise ModelLoadError(msg) from error
        stdin, stdout, stderr = self._child.stdin, self._child.stdout, self._child.stderr
        if stdin is None or stdout is None or stderr is None:
            msg = "the child has no pipes"
            raise RuntimeError(msg)
        self._last_lines.clear()
        self._logs = asyncio.get_running_loop().create_task(self._listen(stderr))
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
        stdin.write(json.dumps(asdict(config)).encode() + b"\n")
        async with asyncio.TaskGroup() as group:
            measuring = group.create_task(self._measure(self._child))
            line = await stdout.readline()
            measuring.cancel()
        return line

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        async for line in stderr:
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            log.debug("llama_cpp_log", line=text)

    async def _measure(self, child: asyncio.subprocess.Process) -> None:
        """Tell the progress by the child's memory; end one that stands."""
        first, used = await asyncio.to_thread(_resident_bytes_and_time, child.pid), (0, 0.0)
        self._load_stood, moved_at = False, time.monotonic()
        while True:
            before, used = used, await asyncio.to_thread(_resident_bytes_and_time, child.pid)
            now = time.monotonic()
            moved_at = now if used != before else moved_at
            if now - moved_at > self._hung_seconds and child.returncode is None:
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
        f"The model {model} could not be loaded: the inference process {_how(code)}. The file may be damaged or of a "
        f"kind that this version doesn't know; fetch it again or choose another model.{last_words(lines)}"
    )


def load_stood(model: Path, seconds: float) -> str:
    """Why a child was ended that was alive."""
    return (
        f"The model {model} could not be loaded: for {seconds:g} s (engine.hung_seconds) the inference process did "
        f"nothing at all, so it was ended. Either it was stopped, or the disk doesn't answer: check it, then try again."
    )


def last_words(lines: Sequence[str]) -> str:
    """The child's last lines, to follow a sentence."""
    return " Its last lines:\n  " + "\n  ".join(lines) if lines else ""


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


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
