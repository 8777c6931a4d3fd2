"""When a model goes round in circles: an answer that repeats itself, an agent that makes one call again and again.

Both are told from what came before alone, and only where it is certain: tokens that repeat, one by one, and calls with
equal arguments whose results were equal too. Pure, but for a parser that holds a call back.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from quern.events import AnswerEvent, ArgumentsDelta, CallEnded, CallStarted
from quern.prompt.tools.protocols import AnswerParser
from quern.types import Item, Loop, LoopKind, Message, Role, ToolCall, ToolResult

LOOK_EVERY = 64
"""Tokens between two looks at an answer, which are at multiples of it."""

MOST_CALLS_A_ROUND = 4
"""Calls that may take turns in a loop: a file is read, a folder listed, the file read."""

LONGEST_COMPARED = 2**16
"""Characters of arguments that are compared as JSON, and not as text only."""


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """An answer loops whose last tokens are at least `repeats` of a period of at most `period` tokens, and at least
    `tokens` altogether; 0 repeats is never. No period is seen in fewer than `period` tokens and itself.
    """

    repeats: int = 0
    tokens: int = 0
    period: int = 64

    def look(self, ids: list[int]) -> Loop | None:
        """Look at the ids of an answer so far, where it is time to. Takes a few microseconds at most."""
        if not self.repeats or len(ids) % LOOK_EVERY or len(ids) < max(self.tokens, self.repeats):
            return None
        period = shortest_period(ids, self.period)
        if period is None:
            return None
        needed = max(self.tokens, self.repeats * period)
        if len(ids) < needed or ids[-needed:-period] != ids[period - needed :]:
            return None
        return Loop(LoopKind.TOKENS, period, needed // period)


NEVER = LoopLimits()
"""No answer loops."""


def shortest_period(ids: list[int], most: int) -> int | None:
    """The shortest period with which the last `most` ids may repeat those before them.

    It is that of the whole end of `ids`, if that repeats a period of at most `most` at all: what is as long as a
    period stands again at multiples of the shortest one only (Fine and Wilf's theorem).
    """
    end = len(ids)
    last, window = ids[-1], ids[-most:]
    for period in range(1, min(most, end - most) + 1):
        if ids[-1 - period] == last and ids[end - most - period : end - period] == window:
            return period
    return None


@dataclass(frozen=True, slots=True)
class RepeatedCall:
    """The call that would go on with a loop of calls. Without a name it is any: that it was made is known."""

    loop: Loop
    name: str | None = None
    arguments: str = ""

    def is_made_by(self, name: str, arguments: str) -> bool:
        """Whether a call is this one."""
        return self.name is None or (name == self.name and _equal(arguments, self.arguments))


def repeated_call(items: Sequence[Item], repeats: int) -> RepeatedCall | None:
    """The call that comes next, where what was last said are at least so many repeats of the same calls with the same
    results, and nobody has asked for anything in between. 0 repeats is never.
    """
    if not repeats:
        return None
    calls = _answered_calls(items)
    for period in range(1, MOST_CALLS_A_ROUND + 1):
        if len(calls) < period * max(repeats, 2):
            return None
        alike = sum(1 for _ in takewhile(_same, zip(calls, calls[period:], strict=False)))
        if alike >= period * (repeats - 1):
            call, _ = calls[period - 1]
            return RepeatedCall(Loop(LoopKind.CALLS, period, alike // period + 1), call.name, call.arguments)
    return None


def _answered_calls(items: Sequence[Item]) -> list[tuple[ToolCall, str]]:
    """The calls since somebody last asked for something, each with its result, the last one first. A call without its
    result has not been repeated, so calls up to it don't count.
    """
    calls: list[ToolCall] = []
    results: dict[int, str] = {}
    waiting: defaultdict[str, deque[int]] = defaultdict(deque)
    for item in items:
        match item:
            case Message(Role.USER):
                calls, results, waiting = [], {}, defaultdict(deque)
            case ToolCall(call_id):
                waiting[call_id].append(len(calls))
                calls.append(item)
            case ToolResult(call_id, output) if waiting[call_id]:  # clients may have one id for several calls
                results[waiting[call_id].popleft()] = output
            case _:
                continue
    answered = takewhile(results.__contains__, reversed(range(len(calls))))
    return [(calls[index], results[index]) for index in answered]


def _same(neighbours: tuple[tuple[ToolCall, str], tuple[ToolCall, str]]) -> bool:
    (call, result), (before, result_before) = neighbours
    return call.name == before.name and result == result_before and _equal(call.arguments, before.arguments)


def _equal(arguments: str, others: str) -> bool:
    """Whether arguments are equal, however they are laid out; long ones have to be laid out alike."""
    if arguments == others:
        return True
    return max(len(arguments), len(others)) <= LONGEST_COMPARED and _canonical(arguments) == _canonical(others)


def _canonical(arguments: str) -> str:
    """Equal objects as equal texts; what is no JSON stands for itself."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


class LoopEndingParser:
    """A parser of an answer that holds its first call back until that is whole. Where it is the one that would go on
    with a loop, neither it nor anything after it is told: the turn is to end.
    """

    def __init__(self, parser: AnswerParser, repeated: RepeatedCall) -> None:
        self._parser = parser
        self._repeated = repeated
        self._call: CallStarted | None = None
        self._held: list[AnswerEvent] = []
        self._free = False
        self._ended = False

    @property
    def loop(self) -> Loop | None:
        """The loop that the answer would go on with, once it would."""
        return self._repeated.loop if self._ended else None

    @property
    def repairs(self) -> int:
        """Slips that were mended so far."""
        return self._parser.repairs

    def push(self, text: str) -> list[AnswerEvent]:
        """Take the next text; return what is now certain."""
        return self._told(self._parser.push(text)) if not self._ended else []

    def finish(self) -> list[AnswerEvent]:
        """End of the answer: return what was held back."""
        if self._ended:
            return []
        told = self._told(self._parser.finish())
        held, self._held = self._held, []
        return told + held

    def _told(self, events: Iterable[AnswerEvent]) -> list[AnswerEvent]:
        told: list[AnswerEvent] = []
        for event in events:
            self._take(event, told)
            if self._ended:
                break
        return told

    def _take(self, event: AnswerEvent, told: list[AnswerEvent]) -> None:
        if isinstance(event, CallStarted) and not self._free:
            self._call = event
        if self._call is None:
            told.append(event)
            return
        self._held.append(event)
        if isinstance(event, CallEnded):
            self._ended = event.whole and self._repeated.is_made_by(self._call.name, _arguments(self._held))
            if not self._ended:
                told += self._held
            self._call, self._held, self._free = None, [], True


def _arguments(events: Iterable[AnswerEvent]) -> str:
    return "".join(event.fragment for event in events if isinstance(event, ArgumentsDelta))
