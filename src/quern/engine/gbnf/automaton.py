"""Regular expressions as deterministic automata, by their derivatives.

llama.cpp follows every way in which the beginning of a token can be read, so an ambiguous grammar such as `(a|b)?`
a few hundred times stops it, and everybody's answers, for hours. An automaton leaves one way.

Source: J. A. Brzozowski, Derivatives of Regular Expressions (1964); S. Owens and others, Regular-expression derivatives
re-examined (2009).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from quern.engine.gbnf.characters import ALL, Ranges, has

MOST_STATES = 1000
MOST_ALTERNATIVES = 100
MOST_WORK = 100_000
"""Expressions that are derived; each takes some microseconds."""


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of a set that is not empty."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Concatenation:
    """One after another; nothing at all where there are none."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several; impossible where there are none."""

    parts: frozenset[Expression]


@dataclass(frozen=True, slots=True)
class Repetition:
    """From `low` to `high` times; None: any number."""

    part: Expression
    low: int
    high: int | None


Expression: TypeAlias = Characters | Concatenation | Choice | Repetition

EMPTY = Concatenation(())
IMPOSSIBLE = Choice(frozenset())
ANYTHING = Repetition(Characters(ALL), 0, None)


@dataclass(frozen=True, slots=True)
class State:
    """`ends`: the text may end here. `ways`: which characters lead on, none of them twice, and to which state."""

    ends: bool
    ways: tuple[tuple[Ranges, int], ...]


@dataclass(frozen=True, slots=True)
class Automaton:
    """Its states, the first one first; each of them leads to an end. `work`: how many expressions were derived."""

    states: tuple[State, ...]
    work: int


def concatenation(parts: Iterable[Expression]) -> Expression:
    """One after another."""
    flat: list[Expression] = []
    for part in parts:
        if part == IMPOSSIBLE:
            return IMPOSSIBLE
        flat += part.parts if isinstance(part, Concatenation) else (part,)
    return flat[0] if len(flat) == 1 else Concatenation(tuple(flat))


def choice(parts: Iterable[Expression]) -> Expression:
    """One of them. Raises ValueError where they are too many."""
    flat: set[Expression] = set()
    for part in parts:
        flat |= part.parts if isinstance(part, Choice) else {part}
    if ANYTHING in flat:
        return ANYTHING
    if len(flat) > MOST_ALTERNATIVES:
        raise _too_many()
    return flat.pop() if len(flat) == 1 else Choice(frozenset(flat))


def repetition(part: Expression, low: int, high: int | None) -> Expression:
    """Several times the same."""
    if high == 0 or part == EMPTY:
        return EMPTY
    if part == IMPOSSIBLE:
        return IMPOSSIBLE if low else EMPTY
    return part if (low, high) == (1, 1) else Repetition(part, low, high)


def automaton(expressions: Sequence[Expression]) -> Automaton:
    """What every expression matches. Raises ValueError where that takes too much, or nothing is matched."""
    classes = _classes(expressions)
    deriver = _Deriver()
    begin = tuple(expressions)
    numbers = {begin: 0}
    ways: list[dict[int, list[tuple[int, int]]]] = []
    found = [begin]
    for current in found:
        leading: dict[int, list[tuple[int, int]]] = {}
        for ranges in classes:
            after = tuple(deriver.derivative(expression, ranges[0][0]) for expression in current)
            if IMPOSSIBLE in after:
                continue
            if after not in numbers:
                numbers[after] = len(found)
                found.append(after)
            leading.setdefault(numbers[after], []).extend(ranges)
        ways.append(leading)
        if len(found) > MOST_STATES:
            raise _too_many()
    return Automaton(_useful([all(map(_may_be_empty, state)) for state in found], ways), deriver.work)


def _useful(ends: list[bool], ways: list[dict[int, list[tuple[int, int]]]]) -> tuple[State, ...]:
    """Without the states from which no end is reached."""
    before: dict[int, list[int]] = {}
    for number, leading in enumerate(ways):
        for after in leading:
            before.setdefault(after, []).append(number)
    useful = [number for number, end in enumerate(ends) if end]
    known = set(useful)
    for number in useful:
        new = set(before.get(number, ())) - known
        known |= new
        useful += new
    if 0 not in known:
        msg = "nothing matches it"
        raise ValueError(msg)
    kept = {number: index for index, number in enumerate(sorted(known))}
    return tuple(
        State(
            ends[number],
            tuple((tuple(sorted(ranges)), kept[after]) for after, ranges in ways[number].items() if after in kept),
        )
        for number in kept
    )


class _Deriver:
    """Derives expressions. Raises ValueError where they become too many."""

    def __init__(self) -> None:
        self.work = 0

    def derivative(self, expression: Expression, code: int) -> Expression:
        """What may follow after this character."""
        self.work += 1
        if self.work > MOST_WORK:
            raise _too_many()
        match expression:
            case Characters(ranges):
                return EMPTY if has(ranges, code) else IMPOSSIBLE
            case Choice(parts):
                return choice(self.derivative(part, code) for part in parts)
            case Repetition(part, low, high):
                rest = repetition(part, max(low - 1, 0), None if high is None else high - 1)
                return concatenation((self.derivative(part, code), rest))
            case Concatenation(parts):
                alternatives: list[Expression] = []
                for index, part in enumerate(parts):
                    alternatives.append(concatenation((self.derivative(part, code), *parts[index + 1 :])))
                    if not _may_be_empty(part):
                        break
                return choice(alternatives)


def _may_be_empty(expression: Expression) -> bool:
    match expression:
        case Characters():
            return False
        case Choice(parts):
            return any(map(_may_be_empty, parts))
        case Repetition(part, low, _):
            return not low or _may_be_empty(part)
        case Concatenation(parts):
            return all(map(_may_be_empty, parts))


def _classes(expressions: Sequence[Expression]) -> list[Ranges]:
    """All characters, in classes whose members no expression ever tells apart."""
    sets = list(dict.fromkeys(ranges for expression in expressions for ranges in _sets(expression)))
    edges = sorted({edge for ranges in {ALL, *sets} for first, last in ranges for edge in (first, last + 1)})
    classes: dict[tuple[bool, ...], list[tuple[int, int]]] = {}
    for first, end in pairwise(edges):
        if has(ALL, first):
            classes.setdefault(tuple(has(ranges, first) for ranges in sets), []).append((first, end - 1))
    return [tuple(ranges) for ranges in classes.values()]


def _sets(expression: Expression) -> list[Ranges]:
    match expression:
        case Characters(ranges):
            return [ranges]
        case Repetition(part):
            return _sets(part)
        case Choice(parts) | Concatenation(parts):
            return list(dict.fromkeys(ranges for part in parts for ranges in _sets(part)))


def _too_many() -> ValueError:
    return ValueError("it can be matched in too many ways")
