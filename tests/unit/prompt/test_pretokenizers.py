"""How each known pre-tokenizer cuts text; the ids that follow are compared with llama.cpp's in the contract tests."""

from __future__ import annotations

import pytest

from quern.modelfiles.pretokenizers import PATTERNS
from quern.prompt.byte_level import to_bytes
from quern.prompt.tokenizer import build_pretokenizer

TEXT = "I'LL cafe\u0301s 123 ok\r\n\n   'ſ!"


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("qwen2", ["I", "'LL", " cafe", "\u0301s", " ", "1", "2", "3", " ok", "\r\n\n", "  ", " '", "ſ", "!"]),
        ("qwen35", ["I", "'LL", " cafe\u0301s", " ", "1", "2", "3", " ok", "\r\n\n", "  ", " '", "ſ", "!"]),
        ("gpt-2", ["I", "'", "LL", " cafe", "\u0301", "s", " 123", " ok", "\r\n\n  ", " '", "ſ", "!"]),
        ("smollm", ["I", "'", "LL", " cafe", "\u0301", "s", " ", "1", "2", "3", " ok", "\r\n\n  ", " '", "ſ", "!"]),
    ],
)
def test_pieces(name: str, pieces: list[str]) -> None:
    assert [to_bytes(piece).decode() for piece, _ in build_pretokenizer(name).pre_tokenize_str(TEXT)] == pieces


@pytest.mark.parametrize("name", list(PATTERNS))
def test_no_text_is_lost(name: str) -> None:
    text = "".join(map(chr, range(0x3000))) + " \u3000\u00a0\t x" + "🫧" * 3
    pieces = [piece for piece, _ in build_pretokenizer(name).pre_tokenize_str(text)]
    assert b"".join(map(to_bytes, pieces)).decode() == text
