"""What a model's file says of the model, and which files are refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from tests.unit.modelfiles.gguf_files import ENDOFTEXT, IM_END, TOKENS, TYPES, write_gguf

from quern.errors import ModelCorrupt, ModelLoadError
from quern.modelfiles.file_types import LLAMA_FILE_TYPES
from quern.modelfiles.gguf import read_gguf
from quern.modelfiles.sizes import kv_cache_bytes
from quern.prompt.template import CHATML


def test_facts_vocabulary_and_template_are_the_files_own(tmp_path: Path) -> None:
    model = read_gguf(write_gguf(tmp_path / "tiny.gguf"))
    assert model.facts.architecture == "qwen2"
    assert model.facts.name == "Tiny"
    assert model.facts.quantisation == "Q4_K_M"
    assert model.facts.context_length == 1024
    assert model.facts.vocabulary_size == len(TOKENS)
    assert (model.facts.kv_heads, model.facts.head_count) == ((2, 2, 2), 8)
    assert (model.facts.key_length, model.facts.value_length) == (8, 8)
    assert model.vocabulary.merges[2] == ("he", "ll")
    assert (model.vocabulary.eos_id, model.vocabulary.padding_id) == (IM_END, ENDOFTEXT)
    assert (model.vocabulary.bos_id, model.vocabulary.eot_id) == (None, None)
    assert model.chat_template == CHATML


def test_kv_memory_counts_heads_of_every_block(tmp_path: Path) -> None:
    same = read_gguf(write_gguf(tmp_path / "same.gguf", kv_heads=2, blocks=3)).facts
    assert kv_cache_bytes(same.kv_shape, tokens=1) == 3 * 2 * (8 + 8) * 2
    mixed = read_gguf(write_gguf(tmp_path / "mixed.gguf", kv_heads=[4, 0, 2], blocks=3)).facts
    assert kv_cache_bytes(mixed.kv_shape, tokens=10) == 10 * (4 + 0 + 2) * (8 + 8) * 2


def test_quantisations_are_called_what_llama_cpp_calls_them() -> None:
    known = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert {number: known[number] for number in LLAMA_FILE_TYPES} == LLAMA_FILE_TYPES


def test_a_file_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"tokenizer\.ggml\.tokens.*give the first one"):
        read_gguf(write_gguf(tmp_path / "tiny.gguf", tokens=[]))


def test_another_kind_of_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="'llama'"):
        read_gguf(write_gguf(tmp_path / "tiny.gguf", model="llama"))


def test_a_base_model_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"chat template.*instruct"):
        read_gguf(write_gguf(tmp_path / "tiny.gguf", template=None))


def test_lists_that_do_not_belong_together_are_corrupt(tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match="token types"):
        read_gguf(write_gguf(tmp_path / "tiny.gguf", types=TYPES[:-1]))


def test_a_special_token_outside_the_vocabulary_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match="eos token 5000"):
        read_gguf(write_gguf(tmp_path / "tiny.gguf", eos=5000))


def test_a_model_without_its_dimensions_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match=r"qwen2\.block_count is 0"):
        read_gguf(write_gguf(tmp_path / "tiny.gguf", blocks=0))
    path = tmp_path / "bare.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a"])
    writer.add_chat_template(CHATML)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match=r"qwen2\.block_count.*not a whole language model"):
        read_gguf(path)
