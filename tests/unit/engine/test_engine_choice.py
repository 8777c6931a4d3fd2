"""Which engine runs the model, as a table."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import pytest

from quern.config_models import EngineName, EngineSettings
from quern.engine import cpu
from quern.engine.cpu import native
from quern.engine.engine_choice import ModelKind, NativeFacts, choose, native_facts
from quern.errors import ConfigError

NATIVE = NativeFacts(frozenset({"qwen2", "qwen3"}), "avx2")
QWEN = ModelKind("qwen2", "Q4_K_M")
AUTO = EngineSettings()


@pytest.mark.parametrize(
    ("facts", "model", "name", "reason"),
    [
        (NATIVE, QWEN, EngineName.CPU, "This machine has AVX2"),
        (replace(NATIVE, instruction_set="avx512_vnni"), QWEN, EngineName.CPU, "This machine has AVX-512 with VNNI"),
        (replace(NATIVE, instruction_set=None), QWEN, EngineName.LLAMACPP, "needs an x86-64 processor with AVX2"),
        (NATIVE, replace(QWEN, architecture="llama"), EngineName.LLAMACPP, "architecture 'llama'"),
        (NATIVE, replace(QWEN, quantisation="IQ2_XS"), EngineName.LLAMACPP, "stored as IQ2_XS"),
        (NativeFacts(problem="It is missing."), QWEN, EngineName.LLAMACPP, "It is missing."),
    ],
)
def test_auto_takes_our_own_engine_where_it_can_and_says_why_not_where_it_cant(
    facts: NativeFacts, model: ModelKind, name: EngineName, reason: str
) -> None:
    choice = choose(AUTO, facts, model)
    assert choice.name is name
    assert reason in choice.reason
    assert choice.degraded is bool(facts.problem)


def test_auto_uses_a_llama_server_that_is_named() -> None:
    settings = EngineSettings(url="http://llama:8080")
    assert choose(settings, NATIVE, QWEN).name is EngineName.LLAMACPP


def test_auto_uses_servers_of_completions_that_are_named_unless_the_model_makes_embeddings() -> None:
    settings = EngineSettings.model_validate({"remote": {"urls": ["http://vllm:8000"]}})
    for model in (QWEN, FOLDER, replace(FOLDER, quantisation="AWQ")):
        assert choose(settings, NATIVE, model).name is EngineName.REMOTE
    assert choose(settings, NATIVE, replace(FOLDER, embeds=True)).name is EngineName.CPU
    with pytest.raises(ConfigError, match=r"engine\.url and engine\.remote\.urls both name servers"):
        choose(settings.model_copy(update={"url": "http://llama:8080"}), NATIVE, QWEN)


@pytest.mark.parametrize("name", [EngineName.LLAMACPP, EngineName.CPU])
def test_an_engine_that_is_named_is_taken(name: EngineName) -> None:
    assert choose(EngineSettings(name=name), NATIVE, QWEN).name is name


def test_our_own_engine_is_not_silently_replaced_where_it_was_named() -> None:
    with pytest.raises(ConfigError, match=r"models of the architecture 'llama'.*--engine auto"):
        choose(EngineSettings(name=EngineName.CPU), NATIVE, replace(QWEN, architecture="llama"))
    for name in (EngineName.CPU, EngineName.VLLM):
        with pytest.raises(ConfigError, match=rf"engine\.url names a llama-server.* the engine {name} does not use"):
            choose(EngineSettings(name=name, url="http://llama:8080"), NATIVE, FOLDER)


FOLDER = ModelKind("qwen2", "BF16", folder=True)


@pytest.mark.parametrize("name", [EngineName.AUTO, EngineName.CPU])
def test_a_folder_is_run_by_our_own_engine(name: EngineName) -> None:
    assert choose(EngineSettings(name=name), NATIVE, FOLDER).name is EngineName.CPU


@pytest.mark.parametrize(
    ("name", "facts", "model", "sentence"),
    [
        (EngineName.LLAMACPP, NATIVE, FOLDER, "llamacpp reads GGUF files.*--engine auto"),
        (EngineName.AUTO, NativeFacts(problem="It is missing."), FOLDER, r"It is missing\. No other engine"),
        (EngineName.CPU, replace(NATIVE, instruction_set=None), FOLDER, "AVX2.*No other engine"),
        (EngineName.AUTO, NATIVE, replace(FOLDER, architecture="llama"), "architecture 'llama'.*No other engine"),
        (EngineName.AUTO, NATIVE, replace(FOLDER, quantisation="AWQ"), "stored as AWQ.*No other engine"),
    ],
)
def test_a_folder_that_our_own_engine_can_not_run_is_refused_with_a_way_out(
    name: EngineName, facts: NativeFacts, model: ModelKind, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{sentence}.*convert_hf_to_gguf\.py"):
        choose(EngineSettings(name=name), facts, model)


def test_vllm_takes_folders_of_every_kind_and_nothing_else() -> None:
    vllm = EngineSettings(name=EngineName.VLLM)
    for facts, model in ((NATIVE, FOLDER), (NATIVE, replace(FOLDER, quantisation="AWQ")), (NativeFacts(), FOLDER)):
        assert choose(vllm, facts, model).name is EngineName.VLLM
    with pytest.raises(ConfigError, match=r"vllm serves a model's folder.*GGUF file.*--engine auto"):
        choose(vllm, NATIVE, QWEN)
    with pytest.raises(ConfigError, match=r"vllm makes no embeddings.*--engine auto"):
        choose(vllm, NATIVE, replace(FOLDER, embeds=True))


def test_remote_takes_any_model_that_writes_text_where_servers_are_named() -> None:
    remote = EngineSettings.model_validate({"name": "remote", "remote": {"urls": "http://a:8000, http://b:8000"}})
    for model in (QWEN, FOLDER, replace(FOLDER, quantisation="AWQ")):
        assert choose(remote, NativeFacts(problem="It is missing."), model).name is EngineName.REMOTE
    with pytest.raises(ConfigError, match=r"engine\.remote\.urls"):
        choose(EngineSettings(name=EngineName.REMOTE), NATIVE, QWEN)
    with pytest.raises(ConfigError, match="remote makes no embeddings"):
        choose(remote, NATIVE, replace(QWEN, embeds=True))


def test_a_folder_can_be_the_vocabulary_of_a_llama_server() -> None:
    settings = EngineSettings(url="http://llama:8080")
    assert choose(settings, NATIVE, FOLDER).name is EngineName.LLAMACPP


@pytest.mark.parametrize(
    ("module", "sentence"), [(None, "halted"), (ModuleType("_native"), "no attribute 'ARCHITECTURES'")]
)
def test_a_native_module_that_is_missing_or_of_another_version_is_a_reason_and_no_crash(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType | None, sentence: str
) -> None:
    monkeypatch.setitem(sys.modules, "quern.engine.cpu._native", module)
    monkeypatch.delattr(cpu, "_native")
    monkeypatch.delitem(sys.modules, native.__name__)
    monkeypatch.delattr(cpu, "native")
    facts = native_facts()
    assert facts.problem.startswith("The native module of the engine cpu can't be used")
    assert sentence in facts.problem
    assert choose(AUTO, facts, QWEN).name is EngineName.LLAMACPP
