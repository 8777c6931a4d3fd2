"""Long texts: how many tokens they have at least, and where they can be cut."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.errors import ContextExceeded, InvalidRequest
from quern.modelfiles.pretokenizers import PATTERNS
from quern.prompt.byte_level import ALPHABET, to_bytes
from quern.prompt.chat import MOST_CHARACTERS
from quern.prompt.codec import TextCodec
from quern.prompt.fim import Gap
from quern.prompt.token_count import CERTAIN_CUT, LeastTokens, pieces
from quern.prompt.tokenizer import BATCH, PIECE, Tokenizer, build_pretokenizer, byte_vocabulary
from quern.types import Message, Role, Tool, ToolCall, ToolResult


def as_text(token: str) -> str:
    return "".join(ALPHABET[byte] for byte in token.encode())


def as_bytes(token: str) -> bytes:
    return to_bytes(token.replace(" ", ALPHABET[32]))


CORPUS = Path(__file__).parents[2] / "data" / "tokenizer_corpus"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(CORPUS.glob("*.txt"))}
TEXTS["odd_strings"] = "a".join(json.loads((CORPUS / "odd_strings.json").read_text(encoding="utf-8")))
TOKENS = ["a", "b", "hello", " hello", "12", " " * 8, "//----", *map(as_text, ("é", "中文"))]
SNIPPETS = [
    "a",
    "Z",
    "9",
    " ",
    "\n",
    "\r\n",
    "\t",
    "'",
    "s",
    "'re",
    "é",
    "e\u0301",
    "中",
    "。",
    "\u3000",
    ";",
    "\x85",
    "²",
]
CODEC = TextCodec.builtin()


def words(name: str, text: str) -> list[str]:
    return [piece for piece, _ in build_pretokenizer(name).pre_tokenize_str(text)]


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("source", TEXTS)
def test_a_text_of_the_corpus_has_the_same_words_in_pieces(name: str, source: str) -> None:
    text = TEXTS[source]
    whole = words(name, text)
    for size in (1, 7, 100, 1000):
        cut = list(pieces(text, size))
        assert "".join(cut) == text
        assert [word for piece in cut for word in words(name, piece)] == whole


@pytest.mark.parametrize("name", PATTERNS)
@given(text=st.lists(st.sampled_from(SNIPPETS) | st.characters(exclude_categories=["Cs"])).map("".join))
def test_any_text_has_the_same_words_in_the_smallest_pieces(name: str, text: str) -> None:
    assert [word for piece in pieces(text, 1) for word in words(name, piece)] == words(name, text)


def test_pieces_are_not_much_longer_than_asked_for() -> None:
    for source, text in TEXTS.items():
        if source not in {"odd_strings", "emoji.txt", "languages.txt"}:
            assert max(map(len, pieces(text, 100))) < 300, source


def test_a_text_without_a_certain_place_is_one_piece() -> None:
    for text in (";" * 5000, "a" * 5000, " " * 5000, ""):
        assert list(pieces(text, 10)) == [text]


def test_a_place_is_found_however_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quern.prompt.token_count.WINDOW", 10)
    for length in range(5, 45):
        text = "x" * length + " y"
        assert list(pieces(text, 3)) == ["x" * length, " y"]


@given(st.lists(st.sampled_from(TOKENS)))
def test_no_text_made_of_tokens_has_fewer_than_the_least(tokens: list[str]) -> None:
    assert LeastTokens(TOKENS, as_bytes).of(b"".join(map(as_bytes, tokens))) <= len(tokens)


def test_the_kind_that_makes_the_most_tokens_decides() -> None:
    least = LeastTokens(TOKENS, as_bytes)
    assert least.of(b"") == 0
    assert least.of(b"1" * 100) == 50
    assert least.of(b" " * 800) == 100
    assert least.of(b"x" * 500 + b" " * 8) == 100
    assert least.of("中".encode() * 200) == 100


def test_a_long_text_has_the_ids_of_the_whole() -> None:
    tokenizer = Tokenizer(byte_vocabulary())
    text = "\n".join(TEXTS.values()) * 10
    assert len(text) > PIECE * BATCH, "several batches"
    assert bytes(tokenizer.encode(text)) == text.encode()
    assert tokenizer.encode_many(["", text, "x", text]) == [[], [*text.encode()], [120], [*text.encode()]]


def test_what_cannot_fit_is_refused_by_its_size_with_the_least_count() -> None:
    tokenizer = Tokenizer(byte_vocabulary())
    with pytest.raises(ContextExceeded, match="at least 100000 tokens") as caught:
        tokenizer.encode_many(["x" * 50_000, "y" * 50_000], 4096)
    assert (caught.value.prompt_tokens, caught.value.context_length) == (100_000, 4096)
    assert len(tokenizer.encode_many(["x" * 50_000], 50_000)[0]) == 50_000


class Counted(Tokenizer):
    """Knows how many characters it has encoded."""

    characters = 0

    def _encode_batch(self, texts: list[str]) -> list[list[int]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.characters += sum(map(len, texts))
        return super()._encode_batch(texts)


def test_what_turns_out_too_long_is_given_up_before_all_of_it_is_encoded() -> None:
    vocabulary = byte_vocabulary()
    long_token = ("some words ".replace(" ", "Ġ")) * 500
    vocabulary = type(vocabulary)(
        [*vocabulary.tokens, long_token], [*vocabulary.types, 1], [], "qwen2", vocabulary.bos_id, vocabulary.eos_id
    )
    tokenizer = Counted(vocabulary)
    with pytest.raises(ContextExceeded, match="at least"):
        tokenizer.encode_many(["some words " * 200_000], 4096)
    assert 0 < tokenizer.characters <= PIECE * BATCH + 100


@pytest.mark.parametrize(
    "item",
    [
        Message(Role.USER, "x" * 200_000),
        Message(Role.ASSISTANT, "x" * 200_000),
        ToolCall("1", "f", '{"a": "' + "x" * 200_000 + '"}'),
        ToolResult("1", "x" * 200_000),
    ],
)
def test_a_conversation_that_cannot_fit_is_refused_before_it_is_rendered(item: Message | ToolCall | ToolResult) -> None:
    items = [Message(Role.USER, "hi"), item]
    for refused in (CODEC.encode_chat, CODEC.render_chat):
        with pytest.raises(ContextExceeded, match=re.escape("at least 2000")):
            refused(items, most=4096)


def test_tools_and_gaps_that_cannot_fit_are_refused() -> None:
    tool = Tool("f", "x" * 200_000, {"type": "object"})
    with pytest.raises(ContextExceeded, match="at least 20"):
        CODEC.encode_chat([Message(Role.USER, "hi")], [tool], most=4096)
    with pytest.raises(ContextExceeded, match="at least 200001"):
        CODEC.gaps.encode(Gap("x" * 200_000, "y"), 4096)


def test_a_conversation_of_more_characters_than_a_template_is_given_is_the_clients_fault() -> None:
    half = Message(Role.USER, " " * (MOST_CHARACTERS // 2 + 1))
    with pytest.raises(InvalidRequest, match="characters"):
        CODEC.encode_chat([half, half])


def test_every_certain_place_is_before_a_blank_a_digit_or_punctuation() -> None:
    text = "".join(chr(code) for code in range(1, 0x3100)) + "中。x1"
    for found in CERTAIN_CUT.finditer(text):
        assert not text[found.start()].isalpha()
