"""A model's vocabulary as plain values, and which of its tokens are special."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

END_OF_TURN = frozenset({"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>"})
FILL_IN_THE_MIDDLE = frozenset({"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"})
NEVER_IN_AN_ANSWER = frozenset({"<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"})
"""Where a model writes one of these it has lost its way; llama.cpp ends the generation there too."""


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type` of a GGUF file."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokens[id]` is a token's text, in the byte-level alphabet where its type is NORMAL; `types[id]` is its type.

    `merges`: pairs of token texts, in order of rank. `pretokenizer`: a name in `pretokenizers.PATTERNS`. The ids are
    None where the model has no such token. `end_ids`: tokens that end a turn besides. `ending_id`: what a model for
    embeddings reads after every text.
    """

    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[tuple[str, str]]
    pretokenizer: str
    bos_id: int | None = None
    eos_id: int | None = None
    eot_id: int | None = None
    padding_id: int | None = None
    end_ids: Sequence[int] = ()
    ending_id: int | None = None

    def text(self, token_id: int | None) -> str:
        """A special token's text, empty for None."""
        return "" if token_id is None else self.tokens[token_id]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Tokens that no ordinary text encodes to: ids by text.

    `control` tokens are structure and have no text of their own (`<|im_end|>`); `user_defined` tokens are text that
    the model reads and writes as one token (`<tool_call>`). `end_of_turn_ids`: a turn is over where one is generated.
    """

    control: Mapping[str, int]
    user_defined: Mapping[str, int]
    end_of_turn_ids: frozenset[int]

    @property
    def ids(self) -> Mapping[str, int]:
        """Those of both kinds."""
        return {**self.control, **self.user_defined}


def find_special_tokens(vocabulary: Vocabulary) -> SpecialTokens:
    """Sort the special tokens by what they are for.

    Old conversions mark Qwen's fill-in-the-middle tokens as user-defined; as in llama.cpp they are control tokens.
    """
    control: dict[str, int] = {}
    user_defined: dict[str, int] = {}
    always_control = END_OF_TURN | FILL_IN_THE_MIDDLE | NEVER_IN_AN_ANSWER
    for token_id in ids_of_type(vocabulary, TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
        text = vocabulary.tokens[token_id]
        if vocabulary.types[token_id] == TokenType.USER_DEFINED and text not in always_control:
            user_defined[text] = token_id
        else:
            control[text] = token_id
    ends = {control[text] for text in END_OF_TURN | NEVER_IN_AN_ANSWER if text in control}
    ends |= {token_id for token_id in (vocabulary.eos_id, vocabulary.eot_id) if token_id is not None}
    ends.update(vocabulary.end_ids)
    return SpecialTokens(MappingProxyType(control), MappingProxyType(user_defined), frozenset(ends))


def ids_of_type(vocabulary: Vocabulary, *types: TokenType) -> list[int]:
    """The ids of all tokens of these types, in order."""
    wanted = {int(kind) for kind in types}
    return [token_id for token_id, kind in enumerate(vocabulary.types) if kind in wanted]
