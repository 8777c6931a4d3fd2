"""The room's one object, with a model file and without."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.modelfiles.gguf_files import ENDOFTEXT, FIM_PAD, IM_END, IM_START, TOKENS, write_gguf

from quern.errors import ModelLoadError
from quern.grammar.tool_calls import ToolFormat
from quern.prompt.codec import TextCodec
from quern.types import Message, Role

USER = [Message(Role.USER, "hello")]


def test_a_model_file_is_all_it_takes(tmp_path: Path) -> None:
    codec = TextCodec.load(write_gguf(tmp_path / "tiny.gguf"))
    ids = codec.encode_chat(USER)
    assert ids[0] == IM_START
    assert ids.count(IM_END) == 1
    assert codec.tokenizer.decode(ids) == "user\nhello\nassistant\n"
    assert codec.vocabulary_size == codec.facts.vocabulary_size == len(TOKENS)
    assert codec.quantisation == "Q4_K_M"
    assert codec.stop_token_ids == {ENDOFTEXT, IM_END, FIM_PAD}
    codec.close()
    codec.close()


def test_loading_writes_nothing(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    TextCodec.load(path).close()
    assert list(tmp_path.iterdir()) == [path]


def test_the_builtin_prompt_needs_no_file() -> None:
    codec = TextCodec.builtin()
    assert codec.vocabulary_size == 265
    special = codec.tokenizer.special.control
    ends = ("<|endoftext|>", "<|im_end|>", "<|file_sep|>", "<|fim_pad|>", "<|repo_name|>")
    assert codec.stop_token_ids == {special[name] for name in ends}
    assert (special["<|endoftext|>"], special["<|im_start|>"], special["<|im_end|>"]) == (256, 257, 258)
    assert codec.gaps.supported
    assert codec.tool_format is ToolFormat.JSON
    ids = codec.encode_chat([Message(Role.SYSTEM, "s"), *USER])
    assert ids == (257, *b"system\ns", 258, *b"\n", 257, *b"user\nhello", 258, *b"\n", 257, *b"assistant\n")


def test_an_answers_text_arrives_as_it_can(tmp_path: Path) -> None:
    text = TextCodec.builtin().incremental_text(["STOP"])
    assert text.push("é ST".encode()[:1]) == ""
    assert text.push("é ST".encode()[1:]) == "é "
    assert text.push(b"OP and more") == ""
    assert text.stopped


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ raise_exception('never') }}",
        "{{ messages[5].content.more }}",
        "{{ 'a' * 10**10 }}",
    ],
)
def test_a_model_whose_template_is_of_no_use_is_refused_at_load(tmp_path: Path, template: str) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", template=template)
    with pytest.raises(ModelLoadError, match=r"tiny\.gguf can't be served.*chat template"):
        TextCodec.load(path)


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ("hello", (*b"hello", 256)),
        ("", (256,)),
        ("hello<|endoftext|>", (*b"hello", 256)),
        ("<|im_end|>", (*b"<|im_end|>", 256)),
        ((104, 105), (104, 105, 256)),
        ((104, 256), (104, 256)),
        ((256, 104), (256, 104, 256)),
        ((), (256,)),
    ],
)
def test_what_is_embedded_ends_once_with_the_models_end_of_a_text(
    given: str | tuple[int, ...], whole: tuple[int, ...]
) -> None:
    assert TextCodec.builtin(embedding_length=8).encode_whole(given) == whole


def test_a_model_that_knows_no_end_of_a_text_reads_what_is_given() -> None:
    codec = TextCodec.builtin()
    assert codec.encode_whole("hi<|endoftext|>") == tuple(b"hi<|endoftext|>")
    assert codec.encode_whole((1, 2)) == (1, 2)
