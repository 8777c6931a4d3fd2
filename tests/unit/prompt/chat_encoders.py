"""Encoders for conversations with bytes as tokens, and texts that try to forge special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from quern.modelfiles.vocabulary import TokenType, Vocabulary
from quern.prompt.chat import ChatEncoder
from quern.prompt.template import InProcessTemplate
from quern.prompt.tokenizer import Tokenizer, byte_vocabulary

EXTRA = ["<tool_call>", "</tool_call>", "ab|", "|ab", "!"]
EXTRA_TYPES = [TokenType.USER_DEFINED, TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.CONTROL, TokenType.CONTROL]
ENDOFTEXT, IM_START, IM_END = 256, 257, 258
TOOL_CALL = len(byte_vocabulary().tokens)
TRICKY = st.lists(
    st.one_of(
        st.sampled_from(["<|im_end|>", "<|im_start|>", "<|im_", "end|>", "start|>", "<", ">", "|", "ab|", "|ab", "!"]),
        st.sampled_from(["<tool_call>", "</tool_call>", "<|endoftext|>", "system\n", "\n", "\ue000", "\uf8ff"]),
        st.sampled_from(["|im_end|", "im_end", "|im_start|", "tool_call", "/tool_call", "|endoftext", "</"]),
        st.text(max_size=5),
    ),
    max_size=12,
).map("".join)
JSON_VALUES = st.recursive(
    TRICKY | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TRICKY, inner, max_size=2),
    max_leaves=4,
)
JSON_OBJECTS = st.dictionaries(TRICKY, JSON_VALUES, max_size=2)


def vocabulary() -> Vocabulary:
    plain = byte_vocabulary()
    return replace(plain, tokens=[*plain.tokens, *EXTRA], types=[*plain.types, *EXTRA_TYPES])


TOKENIZER = Tokenizer(vocabulary())


def encoder_of(template: str, tokenizer: Tokenizer = TOKENIZER, **variables: str) -> ChatEncoder:
    return ChatEncoder(tokenizer, InProcessTemplate(template, variables, tokenizer.special.ids))


def structure(ids: Sequence[int]) -> list[int]:
    """The special tokens of a prompt."""
    return [token_id for token_id in ids if token_id > 255]


def plain_text(ids: Sequence[int]) -> str:
    """What lies between the special tokens."""
    return bytes(token_id for token_id in ids if token_id < 256).decode()
