"""Engines under test, each with what a case needs to know of it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from tests.completions_server import ServerBackend, server_of_model

from quern.config import Settings
from quern.config_models import EngineSettings
from quern.engine.base import Engine, EngineEvent, EngineState, Finished, GenerateRequest, Tokens
from quern.engine.completions.child import CompletionsChild
from quern.engine.completions.engine import CompletionsEngine, Connected
from quern.engine.cpu.engine import CpuEngine, native_options
from quern.engine.cpu.model import Drawn, Model
from quern.engine.cpu.native import NativeModel
from quern.engine.cpu.sequence import Part
from quern.engine.engine_choice import native_facts
from quern.engine.fake import FakeEngine
from quern.engine.llamacpp.engine import LlamaCppEngine
from quern.engine.llamacpp.process import COMMAND
from quern.engine.served.backend import Backend
from quern.engine.slots import with_spare
from quern.engine.transformers.process import TransformersProcess
from quern.engine.vllm.process import VllmProcess
from quern.events import Prefill, Queued
from quern.grammar.json_schema import Llguidance
from quern.prompt.codec import TextCodec
from quern.sampling import PARAMETERS, SamplingParams
from quern.types import Message, Role

NATIVE = native_facts()
RUNS_CPU = pytest.mark.skipif(
    NATIVE.instruction_set is None and not NATIVE.problem, reason="the engine cpu can't run on this machine"
)
REAL_ENGINES = [
    pytest.param("cpu", marks=RUNS_CPU),
    "llamacpp",
    pytest.param("completions", marks=RUNS_CPU),
    pytest.param("vllm", marks=pytest.mark.engines),
    pytest.param("transformers", marks=pytest.mark.engines),
]
ENGINES = ["fake", *REAL_ENGINES]
FOLDER_ENGINES = {"vllm", "transformers"}
PARALLEL = 2
CONTEXT_LENGTH = 3072
KV_TOKENS = 4096
CPU_BLOCK_TOKENS = 32
SETTINGS = EngineSettings(
    parallel=PARALLEL, context_length=CONTEXT_LENGTH, kv_tokens=KV_TOKENS, batch_tokens=32, threads=1
)


@dataclass
class Subject:
    """An engine that can be started, its model's codec, and a way to make it crash.

    What engines may differ in: `reserves`: a request takes the room for its whole answer when it starts; `restarts`: a
    crash takes the engine down for a while; `cache_grain`: cached prefixes are so many tokens, or a multiple;
    `tells_prefill`: how far a prompt is, and what of it was cached, is told while it is computed; `free_logprobs`:
    probabilities are the free model's, under a grammar too; `bias_forbids`: a bias of minus infinity forbids a token;
    `hottest`: the highest temperature that it takes, which is at least that of a request.
    `patience`: seconds that it takes at most to do what is waited for, a start among it.
    """

    engine: Engine
    codec: TextCodec
    crash: Callable[[], Awaitable[None]]
    reserves: bool = True
    restarts: bool = True
    cache_grain: int = 1
    tells_prefill: bool = True
    free_logprobs: bool = True
    bias_forbids: bool = True
    hottest: float = math.inf
    patience: float = 20
    salts: int = field(default=0)

    def ids(self, text: str) -> tuple[int, ...]:
        return self.codec.encode_chat([Message(Role.USER, text)])

    def request(self, text: str = "Say hello.", *, max_tokens: int = 8, salt: str | None = None) -> GenerateRequest:
        """A greedy request under a salt of its own, so that no earlier case's cache changes its course."""
        self.salts += 1
        return GenerateRequest(
            self.ids(text),
            SamplingParams(max_tokens=max_tokens, temperature=0),
            cache_salt=f"case {self.salts}" if salt is None else salt,
        )

    def endless(self, text: str = "Say hello.", *, max_tokens: int = 1500) -> GenerateRequest:
        """A request that never ends by itself before `max_tokens`."""
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
        return GenerateRequest(self.ids(text), sampling, cache_salt=self.request().cache_salt)

    def long_prompt(self, tokens: int) -> GenerateRequest:
        """A request whose prompt takes a while."""
        once = self.ids("many words, ")
        prompt = (once * (tokens // len(once) + 1))[:tokens]
        return replace(self.endless(max_tokens=100), prompt=prompt)

    def filling(self) -> GenerateRequest:
        """A request that leaves no room in the KV cache for a second one like it."""
        return (
            self.endless(max_tokens=CONTEXT_LENGTH - 100) if self.reserves else self.long_prompt(CONTEXT_LENGTH - 100)
        )

    async def run(self, request: GenerateRequest) -> Run:
        return await collect(self.engine, request)

    @asynccontextmanager
    async def running(self, request: GenerateRequest) -> AsyncGenerator[AsyncIterator[EngineEvent]]:
        """A generation that has shown its first token."""
        async with aclosing(self.engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    break
            yield events

    async def wait_until(self, condition: Callable[[], object], seconds: float | None = None) -> None:
        async with asyncio.timeout(self.patience if seconds is None else seconds):
            while not condition():
                await asyncio.sleep(0.01)

    async def assert_idle(self) -> None:
        """Every case leaves the engine ready and idle, or it has found a leak."""
        await self.wait_until_idle()
        stats = self.engine.stats()
        assert (stats.state, stats.waiting) == (EngineState.READY, 0)

    async def wait_until_idle(self) -> None:
        await self.wait_until(lambda: self.engine.stats().running == 0)


@dataclass(frozen=True)
class Run:
    """One generation's events."""

    events: list[EngineEvent]

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token for event in self.events if isinstance(event, Tokens) for token in event.ids)

    @property
    def tokens(self) -> list[Tokens]:
        return [event for event in self.events if isinstance(event, Tokens)]

    @property
    def positions(self) -> list[int]:
        return [event.position for event in self.events if isinstance(event, Queued)]

    @property
    def prefills(self) -> list[Prefill]:
        return [event for event in self.events if isinstance(event, Prefill)]

    @property
    def finished(self) -> Finished:
        (end,) = [event for event in self.events if isinstance(event, Finished)]
        return end


async def collect(engine: Engine, request: GenerateRequest) -> Run:
    async with aclosing(engine.generate(request)) as events:
        return Run([event async for event in events])


async def exhaust(events: AsyncIterator[EngineEvent]) -> None:
    """Read on to an end that must not be `Finished`."""
    async for event in events:
        assert not isinstance(event, Finished)


def fake_subject(codec: TextCodec) -> Subject:
    engine = FakeEngine(
        parallel=PARALLEL,
        context_length=CONTEXT_LENGTH,
        kv_tokens=KV_TOKENS,
        token_delay=0.002,
        prefill_delay=0.005,
        prefill_chunk=32,
        load_delay=0.3,
        embedding_length=codec.facts.embedding_length,
    )

    async def crash() -> None:
        engine.crash()

    return Subject(engine, codec, crash)


class FragileModel:
    """A native model whose next step can be made to fail."""

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self.spec = model.spec
        self.sampler = model.sampler
        self.embedding = model.embedding
        self.failing = False

    def forward(self, parts: Sequence[Part]) -> Sequence[Drawn]:
        if self.failing:
            self.failing = False
            msg = "This step was made to fail."
            raise RuntimeError(msg)
        return self._model.forward(parts)


def cpu_subject(path: Path, codec: TextCodec, settings: EngineSettings = SETTINGS) -> Subject:
    models: list[FragileModel] = []

    def load(progress: Callable[[float], None]) -> Model:
        models.append(FragileModel(NativeModel.load(path, native_options(settings, codec.facts), progress)))
        return models[-1]

    engine = CpuEngine(
        path,
        model_id="small",
        facts=codec.facts,
        settings=settings,
        vocabulary=codec.tokenizer,
        load=load,
    )

    async def crash() -> None:
        models[-1].failing = True
        while models[-1].failing:
            await asyncio.sleep(0.01)

    return Subject(engine, codec, crash, reserves=False, restarts=False, cache_grain=CPU_BLOCK_TOKENS)


def llamacpp_subject(model: Path, codec: TextCodec, settings: EngineSettings = SETTINGS) -> Subject:
    engine = LlamaCppEngine(
        model,
        model_id="small",
        quantisation="Q4_K_M",
        settings=settings,
        vocabulary=codec.tokenizer,
        embeds=codec.facts.embeds,
    )

    async def crash() -> None:
        inference_process(engine).kill()
        await noticed(engine)

    return Subject(engine, codec, crash)


def over_completions(
    name: str, backend: Backend[Connected], codec: TextCodec, settings: EngineSettings, llguidance: Llguidance
) -> CompletionsEngine:
    return CompletionsEngine(
        backend,
        name=name,
        model_id="small",
        quantisation="F16",
        settings=settings,
        vocabulary=codec.tokenizer,
        llguidance=llguidance,
    )


async def noticed(engine: Engine) -> None:
    """Wait until the engine knows that its server has gone."""
    while engine.stats().state is EngineState.READY:
        await asyncio.sleep(0.01)


async def killed(process: CompletionsChild, engine: Engine) -> None:
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    await noticed(engine)


def completions_subject(model: Path, codec: TextCodec, settings: EngineSettings = SETTINGS) -> Subject:
    """The engine over vLLM's protocol, with `cpu` on the other side of it."""
    inside = settings.model_copy(update={"parallel": with_spare(settings.parallel)})
    backend = ServerBackend(partial(server_of_model, model, codec, inside))
    engine = over_completions("vllm", backend, codec, settings, Llguidance.OWN)  # the test's server has ours

    async def crash() -> None:
        await backend.crash()
        await noticed(engine)

    return Subject(
        engine,
        codec,
        crash,
        reserves=False,
        cache_grain=CPU_BLOCK_TOKENS,
        tells_prefill=False,
        bias_forbids=False,
    )


def vllm_subject(model: Path, codec: TextCodec, settings: EngineSettings = SETTINGS) -> Subject:
    """vLLM from its environment in the usual data directory, with the same room as the others."""
    blocks = settings.kv_tokens // CPU_BLOCK_TOKENS
    arguments = (f"--block-size={CPU_BLOCK_TOKENS}", f"--num-gpu-blocks-override={blocks}", "--enforce-eager")
    vllm = settings.vllm.model_copy(update={"arguments": arguments})
    settings = settings.model_copy(update={"vllm": vllm, "batch_tokens": None})
    process = VllmProcess(
        model, served_name="small", facts=codec.facts, settings=settings, engines_dir=Settings().engines_dir
    )
    engine = over_completions("vllm", process, codec, settings, Llguidance.VLLM)
    return Subject(
        engine,
        codec,
        partial(killed, process, engine),
        reserves=False,
        cache_grain=CPU_BLOCK_TOKENS,
        tells_prefill=False,
        free_logprobs=False,
        bias_forbids=False,
        hottest=PARAMETERS["temperature"].limits["le"],
        patience=900,
    )


def transformers_subject(model: Path, codec: TextCodec, settings: EngineSettings = SETTINGS) -> Subject:
    """Transformers from its environment in the usual data directory."""
    process = TransformersProcess(
        model,
        facts=codec.facts,
        end_ids=codec.tokenizer.end_of_turn_ids,
        settings=settings,
        engines_dir=Settings().engines_dir,
    )
    engine = over_completions("transformers", process, codec, settings, Llguidance.OWN)
    return Subject(
        engine,
        codec,
        partial(killed, process, engine),
        reserves=False,
        cache_grain=CPU_BLOCK_TOKENS,
        tells_prefill=False,
        bias_forbids=False,
        patience=300,
    )


SUBJECTS = {
    "cpu": cpu_subject,
    "llamacpp": llamacpp_subject,
    "completions": completions_subject,
    "vllm": vllm_subject,
    "transformers": transformers_subject,
}


def folder_of(model: Path) -> Path:
    """The network of a GGUF file as a folder: the tiny one is written, a real one has to be there already."""
    real = model.parent.with_name(f"{model.parent.name}-hf")
    if real.parent == Settings().models_dir:
        if not real.exists():
            pytest.fail(f"{real} is not there; deploy/export_folder.py writes it from {model}")
        return real
    from tests.model_folders import write_model_folder  # noqa: PLC0415 (most tests need no NumPy)

    folder = model.with_suffix("")
    if not folder.exists():
        folder.mkdir()
        write_model_folder(folder, model)
        # What Quern reads, Transformers' own tokenizers need not: a padding token as an object, code to be run.
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        kept = {name: settings[name] for name in ("chat_template", "eos_token")}
        (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    return folder


def make_subject(
    name: str, model: Path, settings: EngineSettings = SETTINGS, *, fake: TextCodec | None = None
) -> Subject:
    """The engine of this name, not yet started. `fake`: the codec of the fake one, that of bytes if it is not given.

    `model` is a GGUF file; the engines that read folders get one with the same network.
    """
    if name == "fake":
        return fake_subject(fake or TextCodec.builtin())
    place = folder_of(model) if name in FOLDER_ENGINES else model
    return SUBJECTS[name](place, TextCodec.load(place), settings)


def inference_processes() -> list[psutil.Process]:
    """Those of this process, oldest first."""
    children: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if COMMAND[-1] in child.cmdline():
                children.append(child)
    return sorted(children, key=lambda child: child.create_time())


def inference_process(engine: LlamaCppEngine) -> psutil.Process:
    """The one that a loaded engine talks to."""
    assert engine._ready is not None
    port = engine._ready.server._http.base_url.port
    (child,) = [
        child
        for child in inference_processes()
        if any(connection.laddr.port == port for connection in child.net_connections())
    ]
    return child


@asynccontextmanager
async def started(subject: Subject) -> AsyncGenerator[Subject]:
    """A subject whose engine runs, and is closed with its codec in the end."""
    await subject.engine.start()
    try:
        yield subject
    finally:
        await subject.engine.close()
        subject.codec.close()
