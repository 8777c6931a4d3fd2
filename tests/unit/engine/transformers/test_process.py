"""The child process of Transformers, with a program of the tests' in its place."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from quern.config_models import EngineSettings
from quern.engine.base import Finished, GenerateRequest, Tokens
from quern.engine.completions.engine import CompletionsEngine
from quern.engine.transformers.process import TransformersProcess, explain
from quern.errors import ModelLoadError
from quern.modelfiles.description import ModelFacts
from quern.prompt.codec import TextCodec
from quern.sampling import SamplingParams

FAKE = Path(__file__).with_name("fake_child.py")
FACTS = ModelFacts(
    architecture="qwen2",
    name="Tiny",
    quantisation="BF16",
    context_length=512,
    vocabulary_size=1000,
    head_count=2,
    kv_heads=(1,),
    key_length=8,
    value_length=8,
)


@pytest.fixture
def make_process(tmp_path: Path) -> Callable[[str], TransformersProcess]:
    def make(mode: str) -> TransformersProcess:
        python = tmp_path / "environment" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} {mode} {tmp_path / "seen.json"} "$@"\n')
        python.chmod(0o755)
        transformers = EngineSettings().transformers.model_copy(update={"command": str(tmp_path / "environment")})
        settings = EngineSettings(parallel=2, kv_tokens=1024, transformers=transformers)
        return TransformersProcess(
            Path("/models/tiny"), facts=FACTS, end_ids={5}, settings=settings, engines_dir=tmp_path
        )

    return make


@asynccontextmanager
async def running(process: TransformersProcess) -> AsyncGenerator[CompletionsEngine]:
    engine = CompletionsEngine(
        process,
        name="transformers",
        model_id="tiny",
        quantisation="BF16",
        settings=EngineSettings(parallel=2),
        vocabulary=TextCodec.builtin().tokenizer,
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def seen(tmp_path: Path) -> Any:
    """What the child was told."""
    return json.loads((tmp_path / "seen.json").read_text())


async def test_an_answer_comes_from_the_child(
    make_process: Callable[[str], TransformersProcess], tmp_path: Path
) -> None:
    process = make_process("well")
    async with running(process) as engine:
        assert (engine.info.engine, engine.info.context_length, engine.info.device) == ("transformers", 512, "a parrot")
        events = [event async for event in engine.generate(GenerateRequest((1, 7), SamplingParams(max_tokens=3)))]
        assert [event.ids for event in events if isinstance(event, Tokens)] == [(7, 7, 7)]
        assert isinstance(events[-1], Finished)
        assert process.pid is not None
        child, folder = psutil.Process(process.pid), Path(seen(tmp_path)["config"]["socket"]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not child.is_running()
    assert not folder.exists()


async def test_the_key_goes_over_standard_input_and_no_program_of_the_models_is_run(
    make_process: Callable[[str], TransformersProcess], tmp_path: Path
) -> None:
    async with running(make_process("well")):
        told = seen(tmp_path)
    config = told["config"]
    assert told["arguments"][0] == "-P"
    assert config["api_key"] not in " ".join(told["arguments"])
    assert (config["model"], config["kv_tokens"], config["sequence_tokens"]) == ("/models/tiny", 1024, 512)
    assert config["trust_remote_code"] is False


async def test_a_child_that_is_gone_is_told_of(make_process: Callable[[str], TransformersProcess]) -> None:
    process = make_process("well")
    await process.start()
    try:
        assert process.progress() == 1
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            assert await process.lost() == "The inference process was ended by SIGKILL."
    finally:
        await process.stop()


async def test_an_environment_that_is_not_whole_is_explained(
    make_process: Callable[[str], TransformersProcess],
) -> None:
    with pytest.raises(ModelLoadError, match=r"exit code 1\. The environment that it was started from is not"):
        await make_process("broken").start()


async def test_without_an_environment_it_is_said_how_to_make_one(tmp_path: Path) -> None:
    process = TransformersProcess(
        tmp_path, facts=FACTS, end_ids={5}, settings=EngineSettings(), engines_dir=tmp_path / "engines"
    )
    with pytest.raises(ModelLoadError, match="`quern engines install transformers` makes an environment"):
        await process.start()


def test_what_does_not_fit_into_memory_names_the_setting() -> None:
    lines = ["OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."]
    assert "lower engine.kv_tokens" in explain(1, lines, Path("/models/tiny"))
