"""GBNF as llama.cpp's parser reads it: draws texts from a grammar, and says whether one is of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

MOST_REPETITIONS = 2000
ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
HEXADECIMAL = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True)
class Characters:
    """One code point of these ranges."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Reference:
    name: str


@dataclass(frozen=True)
class Choice:
    """One of several sequences."""

    sequences: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Repetition:
    node: Node
    low: int
    high: int | None


Node: TypeAlias = "Characters | Reference | Choice | Repetition"


class Gbnf:
    """A parsed grammar. Raises AssertionError for what llama.cpp would not take."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, Choice] = {}
        for line in text.splitlines():
            name, body = line.split(" ::= ", 1)
            assert re.fullmatch(r"[a-zA-Z0-9-]+", name)
            assert name not in self.rules
            parser = _Parser(body)
            self.rules[name] = parser.choice()
            assert parser.over, body
        self._shortest = self._lengths()

    @property
    def ends(self) -> bool:
        """Whether there is a text at all: a value may have to be inside of itself for ever."""
        return self._shortest["root"] < float("inf")

    def draw(self, random: Random, patience: int = 60) -> str:
        """A text of the grammar; after `patience` choices the shortest way is taken."""
        written: list[str] = []
        todo: list[Node] = [Reference("root")]
        while todo:
            node = todo.pop()
            hurry = len(written) > patience
            match node:
                case Characters(ranges):
                    first, last = random.choice(ranges)
                    written.append(chr(random.randint(first, min(last, first + 200))))
                case Reference(name):
                    todo.append(self.rules[name])
                case Choice(sequences):
                    shortest = min(sequences, key=lambda sequence: sum(map(self._length, sequence)))
                    todo.extend(reversed(shortest if hurry else random.choice(sequences)))
                case Repetition(inner, low, high):
                    most = low + 4 if high is None else high
                    todo.extend([inner] * (low if hurry else random.randint(low, most)))
        return "".join(written)

    def matches(self, text: str) -> bool:
        """Whether the text is of the grammar."""
        return len(text) in _Matcher(self.rules, text).ends(Reference("root"), 0)

    def _lengths(self) -> dict[str, float]:
        self._shortest = dict.fromkeys(self.rules, float("inf"))
        changed = True
        while changed:
            lengths = {name: self._length(choice) for name, choice in self.rules.items()}
            changed, self._shortest = lengths != self._shortest, lengths
        return self._shortest

    def _length(self, node: Node) -> float:
        match node:
            case Characters():
                return 1
            case Reference(name):
                return self._shortest[name]
            case Choice(sequences):
                return min(sum(map(self._length, sequence)) for sequence in sequences)
            case Repetition(inner, low, _):
                return low * self._length(inner) if low else 0


@dataclass
class _Parser:
    text: str
    at: int = 0

    @property
    def over(self) -> bool:
        return self.at == len(self.text)

    def take(self, text: str) -> bool:
        found = self.text.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def choice(self) -> Choice:
        sequences = [self.sequence()]
        while self.take("|"):
            sequences.append(self.sequence())
        return Choice(tuple(sequences))

    def sequence(self) -> tuple[Node, ...]:
        nodes: list[Node] = []
        while True:
            while self.take(" "):
                pass
            if self.over or self.text[self.at] in "|)":
                return tuple(nodes)
            nodes += self.repeated(self.nodes())

    def nodes(self) -> list[Node]:
        if self.take('"'):
            characters: list[Node] = []
            while not self.take('"'):
                code = self.point()
                characters.append(Characters(((code, code),)))
            return characters
        if self.take("("):
            inner = self.choice()
            assert self.take(")"), self.text
            return [inner]
        if self.take("["):
            return [Characters(tuple(self.ranges()))]
        name = re.compile(r"[a-zA-Z0-9-]+").match(self.text, self.at)
        assert name, self.text[self.at :]
        self.at = name.end()
        return [Reference(name[0])]

    def ranges(self) -> list[tuple[int, int]]:
        assert not self.take("^"), "nothing here writes negated sets"
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            first = self.point()
            ranges.append((first, self.point() if self.take("-") else first))
        return ranges

    def point(self) -> int:
        character = self.text[self.at]
        self.at += 1
        if character != "\\":
            return ord(character)
        escape = self.text[self.at]
        self.at += 1
        if escape in ESCAPES:
            return ord(ESCAPES[escape])
        digits = self.text[self.at : self.at + HEXADECIMAL[escape]]
        self.at += len(digits)
        return int(digits, 16)

    def repeated(self, nodes: list[Node]) -> list[Node]:
        counts = re.compile(r"[*+?]|\{(\d+)(,(\d*))?\}").match(self.text, self.at)
        if counts is None:
            return nodes
        assert nodes, "nothing to repeat"
        self.at = counts.end()
        low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(counts[0], (None, None))
        if low is None:
            low = int(counts[1])
            high = low if counts[2] is None else int(counts[3]) if counts[3] else None
        assert max(low, high or 0) < MOST_REPETITIONS
        inner = nodes[0] if len(nodes) == 1 else Choice((tuple(nodes),))
        return [Repetition(inner, low, high)]


@dataclass
class _Matcher:
    rules: dict[str, Choice]
    text: str
    known: dict[tuple[Node, int], set[int]] = field(default_factory=dict[tuple[Node, int], set[int]])

    def ends(self, node: Node, start: int) -> set[int]:
        if (node, start) not in self.known:
            self.known[node, start] = set()
            self.known[node, start] = self.find(node, start)
        return self.known[node, start]

    def find(self, node: Node, start: int) -> set[int]:
        match node:
            case Characters(ranges):
                code = ord(self.text[start]) if start < len(self.text) else -1
                return {start + 1} if any(first <= code <= last for first, last in ranges) else set()
            case Reference(name):
                return self.ends(self.rules[name], start)
            case Choice(sequences):
                return {end for sequence in sequences for end in self.sequence_ends(sequence, start)}
            case Repetition(inner, low, high):
                return self.repetition_ends(inner, low, high, start)

    def sequence_ends(self, nodes: tuple[Node, ...], start: int) -> set[int]:
        ends = {start}
        for node in nodes:
            ends = {end for begin in ends for end in self.ends(node, begin)}
        return ends

    def repetition_ends(self, inner: Node, low: int, high: int | None, start: int) -> set[int]:
        found, ends, count = set[int](), {start}, 0
        while ends and (high is None or count <= high):
            if count >= low:
                if ends <= found:
                    break
                found |= ends
            ends = {end for begin in ends for end in self.ends(inner, begin)}
            count += 1
        return found
