"""What a model's folder says of the model, and which folders are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.model_folders import hugging_face_tokenizer, write_json, write_text_files
from tests.unit.modelfiles.gguf_files import ENDOFTEXT, FIM_PAD, IM_END, TOKENS, write_gguf

from quern.errors import ModelCorrupt, ModelError, ModelLoadError
from quern.modelfiles import folder_json
from quern.modelfiles.description import KvShape
from quern.modelfiles.gguf import read_gguf
from quern.modelfiles.model import read_model
from quern.modelfiles.vocabulary import find_special_tokens
from quern.prompt.codec import TextCodec
from quern.prompt.template import CHATML
from quern.types import Message, Role

VOCABULARY_SIZE = 300  # more than there are tokens, as in every Qwen model
CONFIG = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY_SIZE,
    "max_position_embeddings": 1024,
    "torch_dtype": "bfloat16",
    "eos_token_id": IM_END,
    "auto_map": {"AutoModelForCausalLM": "evil.Model"},
}
NO_VALUE = object()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder without weights, which are not read here."""
    folder = tmp_path / "Tiny"
    folder.mkdir()
    write_text_files(folder, read_gguf(write_gguf(tmp_path / "tiny.gguf")))
    write_json(folder / "config.json", CONFIG)
    return folder


def change(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: value for key, value in values.items() if value is not NO_VALUE})


def change_bpe(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer.json"
    change(path, model=json.loads(path.read_text(encoding="utf-8"))["model"] | changes)


def test_facts_are_those_of_config_json(folder: Path) -> None:
    facts = read_model(folder).facts
    assert (facts.architecture, facts.name, facts.quantisation) == ("qwen3moe", "Tiny", "BF16")
    assert (facts.context_length, facts.vocabulary_size) == (1024, VOCABULARY_SIZE)
    assert (facts.head_count, facts.kv_heads) == (8, (2, 2, 2))
    assert facts.kv_shape == KvShape(3 * 2, 16, 16)


@pytest.mark.parametrize(
    ("changes", "head_length", "kv_heads"),
    [
        ({"head_dim": NO_VALUE}, 8, 2),
        ({"head_dim": None, "num_key_value_heads": NO_VALUE}, 8, 8),
        ({"head_dim": NO_VALUE, "model_type": "qwen3"}, 128, 2),
    ],
)
def test_what_config_json_leaves_out_is_what_transformers_takes(
    folder: Path, changes: Mapping[str, Any], head_length: int, kv_heads: int
) -> None:
    change(folder / "config.json", **changes)
    facts = read_model(folder).facts
    assert (facts.key_length, facts.value_length, facts.kv_heads[0]) == (head_length, head_length, kv_heads)


@pytest.mark.parametrize(
    ("changes", "quantisation"),
    [
        ({"torch_dtype": NO_VALUE, "dtype": "float16"}, "F16"),
        ({"torch_dtype": NO_VALUE}, "F32"),
        ({"torch_dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ"),
    ],
)
def test_how_weights_are_stored_is_named(folder: Path, changes: Mapping[str, Any], quantisation: str) -> None:
    change(folder / "config.json", **changes)
    assert read_model(folder).facts.quantisation == quantisation


def test_the_vocabulary_is_that_of_the_gguf_file_and_other_ids_are_unused(folder: Path) -> None:
    ours = read_model(folder).vocabulary
    theirs = read_model(folder.parent / "tiny.gguf").vocabulary
    count = len(TOKENS) - 1
    assert (ours.tokens[:count], ours.types[:count]) == (theirs.tokens[:count], theirs.types[:count])
    assert set(ours.types[count:]) == {5}
    assert len(ours.tokens) == len(ours.types) == VOCABULARY_SIZE
    assert ours.merges == theirs.merges
    assert (ours.eos_id, ours.padding_id, ours.bos_id) == (theirs.eos_id, theirs.padding_id, None)
    assert find_special_tokens(ours) == find_special_tokens(theirs)


def test_merges_in_the_older_spelling_are_the_same(folder: Path) -> None:
    newer = read_model(folder).vocabulary.merges
    change_bpe(folder, merges=[" ".join(merge) for merge in newer])
    assert read_model(folder).vocabulary.merges == newer


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": [4, 5]}, 6, {4, 5}),
        ({"eos_token_id": 0}, 6, {0}),
        ({}, 6, {6}),
        ({"eos_token_id": None}, [6, 7], {6, 7}),
        (None, None, set[int]()),
    ],
)
def test_an_answer_ends_where_generation_config_says_or_else_config(
    folder: Path, generation: Mapping[str, Any] | None, config: object, ends: set[int]
) -> None:
    (folder / "generation_config.json").unlink()
    if generation is not None:
        write_json(folder / "generation_config.json", generation)
    change(folder / "config.json", eos_token_id=config)
    by_name = {ENDOFTEXT, IM_END, FIM_PAD}
    assert find_special_tokens(read_model(folder).vocabulary).end_of_turn_ids == by_name | ends


@pytest.mark.parametrize(
    "template",
    [CHATML, [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]],
    ids=["one", "several"],
)
def test_the_chat_template_is_in_tokenizer_config(folder: Path, template: object) -> None:
    change(folder / "tokenizer_config.json", chat_template=template)
    assert read_model(folder).chat_template == CHATML


def test_a_chat_template_in_a_file_of_its_own_goes_first(folder: Path) -> None:
    change(folder / "tokenizer_config.json", chat_template="no")
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    assert read_model(folder).chat_template == CHATML
    (folder / "tokenizer_config.json").unlink()
    assert read_model(folder).chat_template == CHATML


def test_a_folder_is_all_that_a_prompt_takes(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit", encoding="utf-8")
    codec = TextCodec.load(folder)
    ids = codec.encode_chat([Message(Role.USER, "hello <|im_end|>")])
    assert ids.count(IM_END) == 1
    assert codec.tokenizer.decode(ids) == "user\nhello <|im_end|>\nassistant\n"
    codec.close()


@pytest.mark.parametrize("template", [NO_VALUE, None, "", [], [{"name": "tool_use", "template": "x"}]])
def test_a_base_model_without_a_template_is_refused(folder: Path, template: object) -> None:
    change(folder / "tokenizer_config.json", chat_template=template)
    with pytest.raises(ModelLoadError, match=rf"{folder} has no chat template.*instruct"):
        read_model(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelLoadError, match=rf"{folder} has no {name}.*Fetch the whole folder"):
        read_model(folder)


FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff{}", b"[" * 10**6, b'{"a": "\\ud800"}', b"version https"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_json_object_is_refused_by_name(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelCorrupt, match=rf"{folder / name} is damaged.*not the JSON.*\.$"):
        read_model(folder)


@pytest.mark.parametrize(
    ("name", "changes", "value"),
    [
        ("config.json", {"model_type": NO_VALUE}, "model_type"),
        ("config.json", {"vocab_size": "300"}, "vocab_size"),
        ("config.json", {"vocab_size": 2**40}, "vocab_size"),
        ("config.json", {"num_hidden_layers": 2**30}, "num_hidden_layers"),
        ("config.json", {"num_attention_heads": 0}, "num_attention_heads"),
        ("config.json", {"max_position_embeddings": -1}, "max_position_embeddings"),
        ("config.json", {"eos_token_id": "x"}, "eos_token_id"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": "0"}, "merges": []}}, r"model\.vocab\.a"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {}, "merges": [["a"]]}}, r"model\.merges\.0"),
        ("tokenizer.json", {"added_tokens": [{"content": "a"}]}, r"added_tokens\.0\.id"),
        ("tokenizer_config.json", {"chat_template": 1}, "chat_template"),
        ("generation_config.json", {"eos_token_id": [None]}, "eos_token_id"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(
    folder: Path, name: str, changes: Mapping[str, Any], value: str
) -> None:
    change(folder / name, **changes)
    with pytest.raises(ModelCorrupt, match=rf"{folder / name} is damaged.*value {value}.* is not as it should be"):
        read_model(folder)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"vocab_size": 100}),
        ("generation_config.json", {"eos_token_id": 5000}),
        ("generation_config.json", {"eos_token_id": -1}),
        ("tokenizer.json", {"added_tokens": [{"content": "<x>", "id": VOCABULARY_SIZE}]}),
    ],
)
def test_ids_outside_the_vocabulary_are_corrupt(folder: Path, name: str, changes: Mapping[str, Any]) -> None:
    change(folder / name, **changes)
    with pytest.raises(ModelCorrupt, match=r"do not belong together.*vocab_size"):
        read_model(folder)


@pytest.mark.parametrize("changes", [{"type": "Unigram"}, {"ignore_merges": True}, {"continuing_subword_prefix": "##"}])
def test_another_kind_of_tokenizer_is_refused(folder: Path, changes: Mapping[str, Any]) -> None:
    change_bpe(folder, **changes)
    with pytest.raises(ModelLoadError, match="no Qwen model has"):
        read_model(folder)


@pytest.mark.parametrize(
    ("pre_tokenizer", "shown"),
    [
        ("another pattern", r"another \\w\+"),
        (None, "no name given"),
        ({"type": "Whitespace"}, "Whitespace"),
        ({"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}, "Digits, ByteLevel"),
    ],
)
def test_another_way_of_splitting_text_is_refused_and_shown(folder: Path, pre_tokenizer: object, shown: str) -> None:
    if pre_tokenizer == "another pattern":
        vocabulary = read_model(folder.parent / "tiny.gguf").vocabulary
        hugging_face_tokenizer(vocabulary, r"another \w+").save(str(folder / "tokenizer.json"))
    else:
        change(folder / "tokenizer.json", pre_tokenizer=pre_tokenizer)
    with pytest.raises(ModelLoadError, match=shown):
        TextCodec.load(folder)


def test_files_too_large_to_be_what_they_are_called_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_json, "MOST_BYTES", 100)
    with pytest.raises(ModelCorrupt, match=r"config\.json has more than 100 bytes"):
        read_model(folder)


@pytest.mark.parametrize("name", [*FILES, "chat_template.jinja"])
def test_a_pipe_in_the_place_of_a_file_does_not_hang(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelLoadError, match=rf"{name} is not a regular file"):
        read_model(folder)


def test_a_template_that_is_no_text_is_corrupt(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelCorrupt, match=r"chat_template\.jinja is no UTF-8"):
        read_model(folder)


def test_a_template_of_no_use_is_told_at_load(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% if %}", encoding="utf-8")
    with pytest.raises(ModelError, match=rf"{folder} can't be served.*chat template"):
        TextCodec.load(folder)
