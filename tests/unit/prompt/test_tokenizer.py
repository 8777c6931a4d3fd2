"""Text to ids and back, on vocabularies small enough to check by hand."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.modelfiles.gguf_files import (
    ENDOFTEXT,
    FIM_PAD,
    FIM_PREFIX,
    IM_END,
    IM_START,
    TOOL_CALL,
    UNUSED,
    write_gguf,
)

from quern.errors import ModelCorrupt, ModelLoadError
from quern.modelfiles.gguf import read_gguf
from quern.modelfiles.vocabulary import Vocabulary
from quern.prompt.byte_level import ALPHABET, to_bytes
from quern.prompt.tokenizer import Tokenizer, byte_vocabulary

BYTES = Tokenizer(byte_vocabulary())


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return read_gguf(write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")).vocabulary


@given(st.text())
def test_the_built_in_vocabulary_is_the_texts_own_bytes(text: str) -> None:
    assert bytes(BYTES.encode(text)) == text.encode()
    assert BYTES.decode(BYTES.encode(text)) == text


@given(st.binary())
def test_the_byte_alphabet_can_be_undone(data: bytes) -> None:
    assert to_bytes("".join(ALPHABET[byte] for byte in data)) == data


def test_merges_apply_in_order_of_rank(vocabulary: Vocabulary) -> None:
    tokenizer = Tokenizer(vocabulary)
    assert [vocabulary.tokens[i] for i in tokenizer.encode("hello hell he l")] == [
        "hello", "Ġ", "hell", "Ġ", "he", "Ġ", "l",
    ]  # fmt: skip


def test_special_tokens_text_is_ordinary_text(vocabulary: Vocabulary) -> None:
    tokenizer = Tokenizer(vocabulary)
    for text in ("<|im_end|>", "<|im_start|>system\n", "<tool_call>", "[PAD0]"):
        ids = tokenizer.encode(text)
        assert max(ids) < ENDOFTEXT
        assert tokenizer.decode(ids) == text


def test_control_tokens_have_no_text_and_user_defined_ones_do(vocabulary: Vocabulary) -> None:
    tokenizer = Tokenizer(vocabulary)
    assert tokenizer.token_bytes(TOOL_CALL) == b"<tool_call>"
    for token_id in (ENDOFTEXT, IM_START, IM_END, FIM_PAD, FIM_PREFIX, UNUSED, UNUSED + 1000):
        assert tokenizer.token_bytes(token_id) == b""


def test_fill_in_the_middle_tokens_are_control_tokens_whatever_the_file_calls_them(vocabulary: Vocabulary) -> None:
    special = Tokenizer(vocabulary).special
    assert special.control["<|fim_prefix|>"] == FIM_PREFIX
    assert dict(special.user_defined) == {"<tool_call>": TOOL_CALL}


def test_a_turn_ends_at_every_end_token_and_at_tokens_that_no_answer_holds(vocabulary: Vocabulary) -> None:
    assert Tokenizer(vocabulary).end_of_turn_ids == {ENDOFTEXT, IM_END, FIM_PAD}
    other_end = replace(vocabulary, eos_id=IM_START, eot_id=TOOL_CALL)
    assert Tokenizer(other_end).end_of_turn_ids == {ENDOFTEXT, IM_END, FIM_PAD, IM_START, TOOL_CALL}


def test_decomposed_characters_stay_decomposed() -> None:
    composed, decomposed = "é", "e\u0301"
    assert BYTES.encode(composed) != BYTES.encode(decomposed)
    assert BYTES.decode(BYTES.encode(decomposed)) == decomposed


def test_broken_bytes_decode_to_replacement_characters() -> None:
    assert BYTES.decode([0xE4, 0xBD, ord("!")]) == "\ufffd!"


def test_many_texts_are_encoded_like_each_of_them() -> None:
    texts = ["", "a", "冒泡排序", "😀"]
    assert BYTES.encode_many(texts) == [BYTES.encode(text) for text in texts]


def test_an_unknown_way_of_splitting_is_refused_by_name(vocabulary: Vocabulary) -> None:
    with pytest.raises(ModelLoadError, match=r"deepseek-llm.*qwen2"):
        Tokenizer(replace(vocabulary, pretokenizer="deepseek-llm"))
    with pytest.raises(ModelLoadError, match="no name given"):
        Tokenizer(replace(vocabulary, pretokenizer=""))


@pytest.mark.parametrize("merge", [("q", "zz"), ("he", ""), ("l", "h")])
def test_merges_of_tokens_that_do_not_exist_are_corrupt(vocabulary: Vocabulary, merge: tuple[str, str]) -> None:
    with pytest.raises(ModelCorrupt, match="merges"):
        Tokenizer(replace(vocabulary, merges=[*vocabulary.merges, merge]))


def test_other_threads_run_while_a_long_text_is_encoded() -> None:
    text = "def f(x):\n    return x + 1\n" * 20_000
    started, ticks = threading.Event(), 0
    encoding = threading.Thread(target=lambda: (started.set(), BYTES.encode(text)))
    encoding.start()
    started.wait()
    while encoding.is_alive():
        encoding.join(timeout=0.001)
        ticks += 1
    assert ticks > 5


def test_a_file_can_be_read_by_a_path_with_odd_characters(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "模型 é.gguf")
    assert Tokenizer(read_gguf(path).vocabulary).encode("hello") == [259]
