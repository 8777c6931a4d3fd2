"""What an answer may look like, kept to by llguidance: a mask of the ids that may come next."""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .completion import Refused

LIMITS = {
    "initial_lexer_fuel": 200_000,
    "max_lexer_states": 50_000,
    "max_items_in_row": 10_000,
    "step_max_items": 200_000,
    "verbose_errors": False,
}
"""Those of Quern's own engine (`quern/grammar/compiler.py`), so that a grammar that it takes is taken here."""
BITS = 8


class Constraint:
    """How far one answer is in its grammar. For one thread."""

    def __init__(self, matcher: Any, ids: int) -> None:
        self._matcher = matcher
        self._ids = ids

    @property
    def failure(self) -> str:
        """Why the grammar can't be kept to any longer, as a sentence; empty while it can."""
        if not self._matcher.is_error():
            return ""
        reason = self._matcher.get_error().splitlines()[0]
        return f"The grammar of this answer became too complex to be kept to any longer, so it was lost ({reason})."

    @property
    def complete(self) -> bool:
        """Whether the grammar allows nothing more."""
        return self._matcher.is_stopped()

    def allowed(self, like: Any) -> Any:
        """A tensor of booleans [V], on the device of the tensor `like`."""
        torch: Any = importlib.import_module("torch")
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        places = torch.arange(BITS, dtype=torch.uint8)
        bits = (packed[:, None] >> places & 1).bool().flatten()[: self._ids]
        return bits.to(like.device)

    def consume(self, token: int) -> None:
        """This was drawn; see `failure` afterwards."""
        self._matcher.consume_token(token)


class Grammars:
    """Compiles grammars for a model with `ids` ids whose tokenizer is in `folder`. Safe to use from threads."""

    def __init__(self, folder: str, ids: int, end_ids: Sequence[int]) -> None:
        self._folder = Path(folder)
        self._ids = ids
        self._end_ids = list(end_ids)
        self._lock = threading.Lock()
        self._tokenizer: Any = None

    def compile(self, lark: str) -> Constraint:
        """Takes milliseconds, the first time a second. Raises Refused with a sentence."""
        llguidance: Any = importlib.import_module("llguidance")
        tokenizer = self._made(llguidance)
        try:
            grammar = llguidance.LLMatcher.grammar_from_lark(lark)
            limits = llguidance.LLParserLimits(**LIMITS)
            matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        except ValueError as error:
            raise Refused(f"This grammar can't be kept to: {error}") from error
        if matcher.is_error():
            raise Refused(f"This grammar can't be kept to: {matcher.get_error()}")
        return Constraint(matcher, self._ids)

    def _made(self, llguidance: Any) -> Any:
        with self._lock:
            if self._tokenizer is None:
                tokens = Tokens((self._folder / "tokenizer.json").read_text(encoding="utf-8"), self._ids, self._end_ids)
                wrapper = llguidance.TokenizerWrapper(tokens)
                self._tokenizer = llguidance.LLTokenizer(wrapper, eos_token=self._end_ids or None)
            return self._tokenizer


class Tokens:
    """A byte-level BPE vocabulary, as Qwen's models have it, in the shape that llguidance's `TokenizerWrapper` wants.

    `text`: the folder's tokenizer.json. Read by ourselves, so that a token means the same bytes as in Quern.
    """

    bos_token_id = None

    def __init__(self, text: str, ids: int, end_ids: Sequence[int]) -> None:
        tokenizers: Any = importlib.import_module("tokenizers")
        file = json.loads(text)
        # A special token's name in a text that a grammar demands is text: without them nothing is taken for one.
        self._tokenizer = tokenizers.Tokenizer.from_str(
            json.dumps({**file, "added_tokens": [], "post_processor": None})
        )
        of_character = byte_alphabet()
        self.tokens = [b""] * ids
        for token, token_id in file["model"]["vocab"].items():
            self.tokens[token_id] = b"".join(of_character.get(character) or character.encode() for character in token)
        added = {token["id"]: token["content"] for token in file["added_tokens"]}
        for token_id, content in added.items():
            self.tokens[token_id] = content.encode()
        self.special_token_ids = sorted(added)
        self.eos_token_id = min(end_ids, default=None)

    def __call__(self, text: str) -> Sequence[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def byte_alphabet() -> dict[str, bytes]:
    """The bytes that byte-level BPE's characters stand for (GPT-2's `bytes_to_unicode`, the other way round)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in shown]
    characters = [*map(chr, shown), *(chr(256 + n) for n in range(len(others)))]
    return {character: bytes([byte]) for character, byte in zip(characters, [*shown, *others], strict=True)}
