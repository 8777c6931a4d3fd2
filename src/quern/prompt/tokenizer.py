"""Text to token ids and back, with the model's own vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import tokenizers
from tokenizers import Regex, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Split

from quern.errors import ContextExceeded, ModelCorrupt, ModelLoadError
from quern.modelfiles.pretokenizers import PATTERNS
from quern.modelfiles.vocabulary import (
    FILL_IN_THE_MIDDLE,
    NEVER_IN_AN_ANSWER,
    SpecialTokens,
    TokenType,
    Vocabulary,
    find_special_tokens,
    ids_of_type,
)
from quern.prompt.byte_level import ALPHABET, to_bytes
from quern.prompt.token_count import LeastTokens, pieces

PIECE = 2**14
"""Characters of a long text that are encoded as one."""
BATCH = 4
"""Pieces that are encoded at once, as many of them at a time as there are cores."""


class Tokenizer:
    """Byte-level BPE. Safe to use from several threads; encoding leaves the interpreter lock free.

    Raises ModelLoadError for a way of splitting text that is not known, ModelCorrupt where the parts do not fit.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.special: SpecialTokens = find_special_tokens(vocabulary)
        self.vocabulary_size = len(vocabulary.tokens)
        self._user_defined = {token_id: text.encode() for text, token_id in self.special.user_defined.items()}
        tokens = vocabulary.tokens
        normal = {tokens[token_id]: token_id for token_id in ids_of_type(vocabulary, TokenType.NORMAL)}
        try:
            self._bpe = tokenizers.Tokenizer(BPE(vocab=normal, merges=list(vocabulary.merges)))
        except Exception as error:  # the Rust library raises nothing narrower
            raise ModelCorrupt(
                f"The model's vocabulary and its merges don't fit each other ({error}). Fetch the model file again."
            ) from error
        self._least = LeastTokens(normal, to_bytes)
        self._bpe.pre_tokenizer = build_pretokenizer(vocabulary.pretokenizer)

    @property
    def end_of_turn_ids(self) -> frozenset[int]:
        """A turn is over where the model generates one of these."""
        return self.special.end_of_turn_ids

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: the text of a special token is text like any other.

        There are no lone surrogates in it: the API replaces them where bodies are read.
        """
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str], most: int | None = None) -> list[list[int]]:
        """`encode` for each text. Raises ContextExceeded where together they have more than `most` tokens and are so
        long that it pays to stop before all are made.
        """
        if sum(map(len, texts)) <= PIECE:
            return self._encode_batch(texts)
        least = self.check_size(texts, most)
        ids: list[list[int]] = [[] for _ in texts]
        count = 0
        cut = ((index, piece) for index, text in enumerate(texts) for piece in pieces(text, PIECE))
        while batch := list(islice(cut, BATCH)):
            for (index, _), made in zip(batch, self._encode_batch([piece for _, piece in batch]), strict=True):
                ids[index] += made
                count += len(made)
            if most is not None and count > most:
                raise ContextExceeded(max(count, least), 0, most, at_least=True)
        return ids

    def check_size(self, texts: Iterable[str], most: int | None) -> int:
        """How many tokens these texts have at least, by their sizes. Raises ContextExceeded where that is more than
        `most`.
        """
        least = sum(self._least.of(text.encode(errors="replace")) for text in texts)
        if most is not None and least > most:
            raise ContextExceeded(least, 0, most, at_least=True)
        return least

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        # Only the batch call lets other threads run meanwhile. An encoding takes ten times as much as its ids.
        return [encoding.ids for encoding in self._bpe.encode_batch_fast(texts, add_special_tokens=False)]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to an answer; none for control tokens and for ids without a token."""
        token = self._bpe.id_to_token(token_id)
        return self._user_defined.get(token_id, b"") if token is None else to_bytes(token)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")


def build_pretokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer, ending in the byte-level alphabet. Raises ModelLoadError for an unknown name."""
    patterns = PATTERNS.get(name)
    if patterns is None:
        raise ModelLoadError(
            f"The model's tokenizer splits text in a way that Quern does not know ({name or 'no name given'}), so its "
            f"prompts would come out wrong. Use a Qwen-Coder model; known are {', '.join(PATTERNS)}."
        )
    splits: list[PreTokenizer] = [Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_vocabulary() -> Vocabulary:
    """A vocabulary that needs no model file: ids 0 to 255 are the bytes themselves, special tokens follow."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(FILL_IN_THE_MIDDLE | NEVER_IN_AN_ANSWER)]
    return Vocabulary(
        tokens=[*ALPHABET, *special],
        types=[TokenType.NORMAL] * len(ALPHABET) + [TokenType.CONTROL] * len(special),
        merges=[],
        pretokenizer="qwen2",
        eos_id=len(ALPHABET) + special.index("<|im_end|>"),
        padding_id=len(ALPHABET) + special.index("<|endoftext|>"),
    )
