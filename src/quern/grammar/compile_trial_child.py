"""The child process in which grammars are tried: `python -P -m quern.grammar.compile_trial_child <bytes of memory>`.

It reads JSON lines: first `{"special": [<text of a special token>, …], "ends": [<those that end a turn>, …],
"llguidance": <one of `Llguidance`>, "seconds": <of the processor's time for one grammar>}`, then `{"schema": …}` or
`{"lark": …}` for each grammar. It answers each line with one, `{"refused": <sentence, or empty>, "size": <bytes that
the grammar takes>}`. A grammar that takes too much time or memory ends the process, and so does the end of its standard
input.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from quern.errors import InvalidRequest
from quern.grammar.compiler import CompiledGrammar, GrammarCompiler
from quern.grammar.json_schema import Llguidance, with_ids_replaced
from quern.grammar.kinds import Grammar, JsonGrammar, LarkGrammar
from quern.grammar.refusals import too_complex_grammar

BYTES = 256
ANY_TOKEN = f"<[0-{BYTES - 1}]>"
ANSWERS = 2
STEPS = 150
STRIDE = 37
"""How many answers are begun, and how far; coprime to most counts of what may come next, so that it varies."""
ENDINGS = frozenset(b'"}],')
"""What ends a value in JSON, or brings the next one."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids by text."""

    control: Mapping[str, int]
    user_defined: Mapping[str, int] = field(default_factory=dict[str, int])


class ByteVocabulary:
    """Bytes as tokens, then special ones: a grammar is as hard to compile for them as for a model's own."""

    def __init__(self, special: Sequence[str], ends: Sequence[str]) -> None:
        ids = {text: BYTES + index for index, text in enumerate(special)}
        self.special = SpecialTokens(ids)
        self.end_of_turn_ids = frozenset(ids[text] for text in ends)
        self.vocabulary_size = BYTES + len(ids)

    def token_bytes(self, token_id: int) -> bytes:
        """The byte with this id."""
        return bytes([token_id]) if token_id < BYTES else b""

    def encode(self, text: str) -> list[int]:
        """The text's bytes."""
        return list(text.encode())


def replies(requests: Iterable[bytes]) -> Iterator[bytes]:
    """The reply to each line."""
    lines = iter(requests)
    opening = json.loads(next(lines))
    vocabulary = ByteVocabulary(opening["special"], opening["ends"])
    compiler = GrammarCompiler(vocabulary, vocabulary.vocabulary_size, Llguidance(opening["llguidance"]))
    yield _reply()
    for line in lines:
        request = json.loads(line)
        grammar = _grammar(request)
        signal.setitimer(signal.ITIMER_PROF, opening["seconds"])  # its signal ends the process, also amid native code
        try:
            reply = _tried(compiler, grammar)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        yield reply


def _grammar(request: Mapping[str, str]) -> Grammar:
    """The grammar to try. Tokens that it names by their ids have others here, and are as good as any."""
    if "schema" in request:
        return JsonGrammar(request["schema"])
    return LarkGrammar(with_ids_replaced(request["lark"], ANY_TOKEN))


def _tried(compiler: GrammarCompiler, grammar: Grammar) -> bytes:
    before = _allocated()
    try:
        compiled = compiler.compile(grammar)
    except InvalidRequest as error:
        return _reply(refused=str(error))
    size = _allocated() - before
    if not all(_can_be_written(compiled, number) for number in range(ANSWERS)):
        return _reply(refused=too_complex_grammar(grammar))
    return _reply(size=size)


def _can_be_written(grammar: CompiledGrammar, number: int) -> bool:
    """Whether llguidance keeps up with the beginning of some answer; that it may not shows only then."""
    constraint = grammar.constraint()
    for step in range(STEPS):
        if constraint.complete:
            break
        mask = constraint.mask()
        allowed = [byte for byte in range(BYTES) if mask[byte // 8] >> byte % 8 & 1]
        if constraint.failure or not allowed:
            break
        endings = [byte for byte in allowed if byte in ENDINGS] if step % 3 == 2 else []
        choices = endings or allowed
        constraint.consume([choices[(step * STRIDE + number) % len(choices)]])
    return not constraint.failure


class _Allocations(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip
    uordblks: int
    hblkhd: int


def _allocated() -> int:
    """Bytes that are allocated; 0 where the C library doesn't tell."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return 0
    mallinfo.restype = _Allocations
    found: _Allocations = mallinfo()
    return found.uordblks + found.hblkhd


def _reply(*, refused: str = "", size: int = 0) -> bytes:
    return json.dumps({"refused": refused, "size": size}).encode() + b"\n"


if __name__ == "__main__":
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for reply in replies(sys.stdin.buffer):
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()
