"""The room's one object, with a model file and without."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.modelfiles.gguf_files import ENDOFTEXT, FIM_PAD, IM_END, IM_START, TOKENS, write_gguf

from quern.errors import ModelLoadError
from quern.grammar.tool_calls import ToolFormat
from quern.prompt.prompt import Prompt
from quern.types import Message, Role

USER = [Message(Role.USER, "hello")]


def test_a_model_file_is_all_it_takes(tmp_path: Path) -> None:
    prompt = Prompt.load(write_gguf(tmp_path / "tiny.gguf"))
    ids = prompt.encode_chat(USER)
    assert ids[0] == IM_START
    assert ids.count(IM_END) == 1
    assert prompt.tokenizer.decode(ids) == "user\nhello\nassistant\n"
    assert prompt.vocabulary_size == prompt.facts.vocabulary_size == len(TOKENS)
    assert prompt.quantisation == "Q4_K_M"
    assert prompt.stop_token_ids == {ENDOFTEXT, IM_END, FIM_PAD}
    prompt.close()
    prompt.close()


def test_loading_writes_nothing(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    Prompt.load(path).close()
    assert list(tmp_path.iterdir()) == [path]


def test_the_builtin_prompt_needs_no_file() -> None:
    prompt = Prompt.builtin()
    assert prompt.vocabulary_size == 265
    special = prompt.tokenizer.special.control
    ends = ("<|endoftext|>", "<|im_end|>", "<|file_sep|>", "<|fim_pad|>", "<|repo_name|>")
    assert prompt.stop_token_ids == {special[name] for name in ends}
    assert (special["<|endoftext|>"], special["<|im_start|>"], special["<|im_end|>"]) == (256, 257, 258)
    assert prompt.gaps.supported
    assert prompt.tool_format is ToolFormat.JSON
    ids = prompt.encode_chat([Message(Role.SYSTEM, "s"), *USER])
    assert ids == (257, *b"system\ns", 258, *b"\n", 257, *b"user\nhello", 258, *b"\n", 257, *b"assistant\n")


def test_an_answers_text_arrives_as_it_can(tmp_path: Path) -> None:
    text = Prompt.builtin().incremental_text(["STOP"])
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
        Prompt.load(path)
