"""The child process in which grammars are tried: `python -P -m quern.engine.cpu.grammar_child`.

It reads JSON lines: first `{"special": [<text of a special token>, …], "ends": [<those that end a turn>, …],
"seconds": <of the processor's time for one grammar>}`, then `{"schema": …}` or `{"lark": …}` for each grammar. It
answers each line with one, `{"refused": <sentence, or empty>}`. A grammar that takes too much time or memory ends the
process, and so does the end of its standard input.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from quern.engine.base import Grammar, JsonGrammar, TextGrammar
from quern.engine.cpu.grammar import GrammarCompiler
from quern.errors import InvalidRequest

BYTES = 256
MOST_MEMORY = 2**30
"""Bytes of address space."""


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
    compiler = GrammarCompiler(vocabulary, vocabulary.vocabulary_size)
    yield _reply("")
    for line in lines:
        refused = ""
        signal.setitimer(signal.ITIMER_PROF, opening["seconds"])  # its signal ends the process, also amid native code
        try:
            compiler.compile(_grammar(json.loads(line)))
        except InvalidRequest as error:
            refused = str(error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        yield _reply(refused)


def _grammar(request: Mapping[str, str]) -> Grammar:
    return JsonGrammar(request["schema"]) if "schema" in request else TextGrammar(request["lark"], None)


def _reply(refused: str) -> bytes:
    return json.dumps({"refused": refused}).encode() + b"\n"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for reply in replies(sys.stdin.buffer):
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()
