"""A model without weights whose answers depend on every token that its KV blocks hold, and on nothing else."""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from quern.engine.base import GenerateRequest, Vector
from quern.engine.cpu.model import Drawn, ModelSpec
from quern.engine.cpu.sequence import Part
from quern.grammar.compiler import Constraint

VOCABULARY_SIZE = 50


@dataclass(frozen=True)
class Token:
    id: int
    logprob: float = -0.5
    top: Sequence[tuple[int, float]] = ((7, -0.25),)


@dataclass(frozen=True)
class ScriptedSpecialTexts:
    control: Mapping[str, int] = field(default_factory=dict[str, int])
    user_defined: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass
class ScriptedVocabulary:
    """Bytes as tokens, special tokens after them."""

    vocabulary_size: int = VOCABULARY_SIZE
    end_of_turn_ids: frozenset[int] = frozenset()
    special: ScriptedSpecialTexts = field(default_factory=ScriptedSpecialTexts)

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


def next_token(tokens: Sequence[int]) -> int:
    """What comes after `tokens`: any of the vocabulary, the same one every time."""
    return hashlib.blake2b(repr(list(tokens)).encode()).digest()[0] % VOCABULARY_SIZE


def answer(prompt: Sequence[int], count: int) -> tuple[int, ...]:
    """The first `count` tokens of the only right answer to a prompt."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tuple(tokens[len(prompt) :])


def direction(tokens: Sequence[int]) -> Vector:
    """The only right embedding of `tokens`."""
    return array("f", list(hashlib.blake2b(repr(list(tokens)).encode()).digest()))


EMBEDDING = "an embedding"


class ScriptedModel:
    """Remembers the tokens of every block under their salt, and draws from what it reads there, or embeds that.

    A block given to two sequences, read before it was computed, or shared between salts changes the answer or fails.
    `steps` counts; `before_step` may wait or raise; `constraints` are those of the requests.
    """

    def __init__(
        self, *, blocks: int = 64, block_tokens: int = 4, before_step: Callable[[Sequence[Part]], None] | None = None
    ) -> None:
        self.spec = ModelSpec(
            context_length=blocks * block_tokens,
            vocabulary_size=VOCABULARY_SIZE,
            kv_blocks=blocks,
            block_tokens=block_tokens,
            device="no device",
        )
        self.before_step = before_step
        self.steps: list[list[tuple[int, int]]] = []
        self.threads: set[str] = set()
        self.constraints: list[Constraint | None] = []
        self._cells: list[tuple[str, int] | None] = [None] * (blocks * block_tokens)

    def sampler(self, request: GenerateRequest, constraint: Constraint | None) -> object:
        if request.sampling.top_p > 1:
            msg = "top_p is too high."
            raise ValueError(msg)
        self.constraints.append(constraint)
        return object()

    def embedding(self) -> object:
        return EMBEDDING

    def forward(self, parts: Sequence[Part]) -> list[Drawn]:
        self.threads.add(threading.current_thread().name)
        if self.before_step is not None:
            self.before_step(parts)
        self.steps.append([(part.sequence.key, part.count) for part in parts])
        for part in parts:
            self._write(part)
        return [self._outcome(part) if part.reaches_end else Drawn() for part in parts]

    def _outcome(self, part: Part) -> Drawn:
        read = self._read(part)
        return Drawn(vector=direction(read)) if part.sequence.end is EMBEDDING else Drawn([Token(next_token(read))])

    def _write(self, part: Part) -> None:
        sequence = part.sequence
        for position in range(sequence.computed, sequence.computed + part.count):
            self._cells[self._cell(sequence.blocks, position)] = (
                sequence.request.cache_salt,
                sequence.tokens[position],
            )

    def _read(self, part: Part) -> list[int]:
        sequence = part.sequence
        tokens: list[int] = []
        for position in range(sequence.computed + part.count):
            cell = self._cells[self._cell(sequence.blocks, position)]
            assert cell is not None, "a block was read that nobody has computed"
            salt, token = cell
            assert salt == sequence.request.cache_salt, "a block of another salt was read"
            tokens.append(token)
        return tokens

    def _cell(self, blocks: Sequence[int], position: int) -> int:
        size = self.spec.block_tokens
        return blocks[position // size] * size + position % size
