"""Which models are for embeddings, and what ends the texts that they read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from tests.model_folders import write_embedding_folder, write_json, write_text_files
from tests.unit.modelfiles.gguf_files import ENDOFTEXT, IM_END, write_gguf

from quern.errors import ModelCorrupt, ModelLoadError
from quern.modelfiles.gguf import read_gguf
from quern.modelfiles.model import read_model
from quern.prompt.codec import TextCodec

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "vocab_size": 300,
    "max_position_embeddings": 1024,
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
LAST = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}


def template_processing(*texts: str, before: bool = False) -> dict[str, Any]:
    """As it stands in the tokenizer.json of Qwen3-Embedding."""
    added = [{"SpecialToken": {"id": text, "type_id": 0}} for text in texts]
    text = [{"Sequence": {"id": "A", "type_id": 0}}]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    special = {text: {"id": text, "ids": [ENDOFTEXT], "tokens": [text]} for text in texts}
    single = added + text if before else text + added
    template = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special}
    return {"type": "Sequence", "processors": [byte_level, template]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder without weights, which are not read here. It is a chat model's until a test makes it another."""
    folder = tmp_path / "Tiny-Embedding"
    folder.mkdir()
    write_text_files(folder, read_gguf(write_gguf(tmp_path / "tiny.gguf")))
    write_json(folder / "config.json", CONFIG)
    return folder


def write_list(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def change(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def make_embedding(folder: Path, pooling: dict[str, Any] = LAST) -> None:
    write_list(folder / "modules.json", MODULES)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", pooling)


def last_pooling(
    *, add_eos: bool | None = None, kind: gguf.PoolingType = gguf.PoolingType.LAST
) -> Callable[[gguf.GGUFWriter], None]:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_pooling_type(kind)
        if add_eos is not None:
            writer.add_add_eos_token(add_eos)

    return add


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_a_file_that_pools_the_last_token_is_for_embeddings(architecture: str, tmp_path: Path) -> None:
    facts = read_gguf(write_gguf(tmp_path / "a.gguf", architecture=architecture, add=last_pooling())).facts
    assert (facts.embeds, facts.embedding_length) == (True, 64)


@pytest.mark.parametrize("add", [None, last_pooling(kind=gguf.PoolingType.NONE)])
def test_a_file_without_pooling_writes_text(add: Callable[[gguf.GGUFWriter], None] | None, tmp_path: Path) -> None:
    model = read_gguf(write_gguf(tmp_path / "a.gguf", add=add))
    assert (model.facts.embeds, model.facts.embedding_length, model.vocabulary.ending_id) == (False, 0, None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(gguf.PoolingType.MEAN, "mean"), (gguf.PoolingType.CLS, "cls"), (gguf.PoolingType.RANK, "rank")],
)
def test_a_file_that_pools_otherwise_is_refused_by_name(kind: gguf.PoolingType, name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=rf"{name}.*Qwen3-Embedding"):
        read_gguf(write_gguf(tmp_path / "a.gguf", add=last_pooling(kind=kind)))


def test_a_file_whose_tokens_look_ahead_is_refused(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        last_pooling()(writer)
        writer.add_causal_attention(value=False)

    with pytest.raises(ModelLoadError, match="look ahead"):
        read_gguf(write_gguf(tmp_path / "a.gguf", add=add))


@pytest.mark.parametrize(
    ("architecture", "add_eos", "ending"),
    [
        ("qwen3", True, IM_END),
        ("qwen3", None, ENDOFTEXT),
        ("qwen3", False, None),
        ("qwen2", True, IM_END),
        ("qwen2", None, None),
    ],
)
def test_the_end_after_a_text_is_what_the_file_says_and_where_it_is_silent_what_qwen_says(
    architecture: str, add_eos: bool | None, ending: int | None, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "a.gguf", architecture=architecture, eos=IM_END, add=last_pooling(add_eos=add_eos))
    assert read_gguf(path).vocabulary.ending_id == ending


def test_a_file_for_embeddings_needs_no_chat_template(tmp_path: Path) -> None:
    codec = TextCodec.load(write_gguf(tmp_path / "a.gguf", architecture="qwen3", template=None, add=last_pooling()))
    assert codec.facts.embeds
    codec.close()


@pytest.mark.parametrize("pooling", [LAST, {"pooling_mode": "lasttoken", "include_prompt": True}])
def test_a_folder_of_sentence_transformers_is_for_embeddings(pooling: dict[str, Any], folder: Path) -> None:
    assert not read_model(folder).facts.embeds
    make_embedding(folder, pooling)
    assert read_model(folder).facts.embedding_length == 64


def test_a_folder_with_the_pooling_alone_is_for_embeddings(folder: Path) -> None:
    make_embedding(folder)
    (folder / "modules.json").unlink()
    assert read_model(folder).facts.embeds


@pytest.mark.parametrize(("architecture", "embeds"), [("Qwen3Model", True), ("Qwen3ForCausalLM", False)])
def test_a_folder_saved_without_its_head_is_for_embeddings(architecture: str, embeds: bool, folder: Path) -> None:
    change(folder / "config.json", architectures=[architecture])
    assert read_model(folder).facts.embeds is embeds


def test_a_folder_for_embeddings_needs_no_chat_template(folder: Path) -> None:
    make_embedding(folder)
    change(folder / "tokenizer_config.json", chat_template=None)
    assert read_model(folder).chat_template == ""


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_mean_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True},
        {"pooling_mode": "cls"},
        {},
    ],
)
def test_a_folder_that_pools_otherwise_is_refused(pooling: dict[str, Any], folder: Path) -> None:
    make_embedding(folder, pooling)
    with pytest.raises(ModelLoadError, match="Qwen3-Embedding"):
        read_model(folder)


def test_a_folder_with_a_further_layer_is_refused_by_its_name(folder: Path) -> None:
    make_embedding(folder)
    write_list(folder / "modules.json", [*MODULES, {"path": "3_Dense", "type": "sentence_transformers.models.Dense"}])
    with pytest.raises(ModelLoadError, match="Dense"):
        read_model(folder)


@pytest.mark.parametrize("path", ["../Other", "/etc", "a/b"])
def test_modules_are_read_inside_of_the_folder_only(path: str, folder: Path) -> None:
    make_embedding(folder)
    write_list(folder / "modules.json", [{**MODULES[1], "path": path}])
    with pytest.raises(ModelLoadError, match="outside"):
        read_model(folder)


def test_a_folder_without_its_pooling_is_incomplete(folder: Path) -> None:
    write_list(folder / "modules.json", MODULES)
    with pytest.raises(ModelLoadError, match=r"1_Pooling/config\.json.*Fetch"):
        read_model(folder)


@pytest.mark.parametrize("damage", [{}, [1], "Pooling"])
def test_damaged_modules_are_corrupt(damage: Any, folder: Path) -> None:
    write_list(folder / "modules.json", damage)
    with pytest.raises(ModelCorrupt, match=r"modules\.json"):
        read_model(folder)


@pytest.mark.parametrize(
    ("post_processor", "ending"),
    [
        (template_processing("<|endoftext|>"), ENDOFTEXT),
        (template_processing("<|im_end|>"), IM_END),
        (template_processing(), None),
        ({"type": "ByteLevel", "trim_offsets": False}, ENDOFTEXT),
        (None, ENDOFTEXT),
    ],
)
def test_the_end_after_a_text_is_what_the_folders_tokenizer_puts_there(
    post_processor: dict[str, Any] | None, ending: int | None, folder: Path
) -> None:
    make_embedding(folder)
    change(folder / "tokenizer.json", post_processor=post_processor)
    assert read_model(folder).vocabulary.ending_id == ending


@pytest.mark.parametrize(
    "post_processor",
    [template_processing("<|im_start|>", before=True), template_processing("<|im_end|>", "<|endoftext|>")],
)
def test_a_tokenizer_that_puts_more_around_a_text_is_refused(post_processor: dict[str, Any], folder: Path) -> None:
    make_embedding(folder)
    change(folder / "tokenizer.json", post_processor=post_processor)
    with pytest.raises(ModelLoadError, match=r"around a text"):
        read_model(folder)


@pytest.mark.parametrize("text", ["", "hello", "def f():\n    return 1\n", "  é🦀\r\n\r\n x"])
def test_a_folders_texts_have_the_ids_that_hugging_faces_tokenizer_gives_them(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "Small"
    folder.mkdir()
    write_embedding_folder(folder, write_gguf(tmp_path / "tiny.gguf"))
    codec = TextCodec.load(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert list(codec.encode_whole(text)) == theirs.encode(text).ids
    assert theirs.encode(text).ids[-1] == ENDOFTEXT
