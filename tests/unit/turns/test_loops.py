"""When an answer or a conversation counts as going round in circles."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from itertools import cycle, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.turns.scripted_parser import ScriptedParser

from quern.config import TurnSettings
from quern.events import AnswerEvent, ArgumentsDelta, CallEnded, CallStarted, TextDelta
from quern.prompt.tools.protocols import merged
from quern.turns.loops import LOOK_EVERY, LoopEndingParser, LoopLimits, RepeatedCall, repeated_call
from quern.types import Item, Loop, LoopKind, Message, Role, ToolCall, ToolResult

SETTINGS = TurnSettings()
DEFAULTS = LoopLimits(SETTINGS.loop_repeats, SETTINGS.loop_tokens, SETTINGS.loop_period)
PROSE = [*b"Here is the list that you have asked for, in the order in which it was found:\n"]
LOOP = Loop(LoopKind.CALLS, 1, 3)


def ended(ids: Sequence[int], limits: LoopLimits = DEFAULTS) -> tuple[int, Loop] | None:
    """After how many tokens an answer of these is ended, and for what."""
    seen: list[int] = []
    for one in ids:
        seen.append(one)
        if (loop := limits.look(seen)) is not None:
            return len(seen), loop
    return None


def repeated(period: Sequence[int], tokens: int) -> list[int]:
    return [*islice(cycle(period), tokens)]


@pytest.mark.parametrize("period", [1, 2, 3, 9, 30, 64])
@pytest.mark.parametrize("before", [[], PROSE, PROSE * 20], ids=len)
def test_an_answer_ends_at_the_first_look_after_its_repeats_are_enough(period: int, before: list[int]) -> None:
    needed = max(DEFAULTS.tokens, DEFAULTS.repeats * period)
    found = ended([*before, *repeated(range(1000, 1000 + period), needed + 2 * LOOK_EVERY)])
    assert found is not None
    length, loop = found
    assert len(before) + needed <= length < len(before) + needed + LOOK_EVERY
    assert loop == Loop(LoopKind.TOKENS, period, needed // period)


@pytest.mark.parametrize(
    "period",
    [
        [1, 1, 1, 1, 2],
        [1, 2, 1, 2, 1, 3],
        [1, 2, 1, 3, 2, 3],
        [*b"0, 0, 0, 0, 0, 0,\n"],
        [7] * 63 + [8],
    ],
)
def test_a_period_that_repeats_itself_in_part_is_found_as_it_is(period: list[int]) -> None:
    found = ended(PROSE + repeated(period, 40 * LOOK_EVERY), LoopLimits(20, 300, 64))
    assert found is not None
    assert found[1].period == len(period)


def test_a_repeat_that_was_left_again_is_no_loop() -> None:
    limits = LoopLimits(100, 500, 64)
    ids = repeated([1, 2, 3], 480) + [9] + repeated([1, 2, 3], 480) + PROSE * 5 + repeated([1, 2, 3], 290)
    assert ended(ids, limits) is None


def test_a_period_that_is_too_long_is_no_loop() -> None:
    assert ended(repeated(range(65), 65 * 40), LoopLimits(10, 100, 64)) is None
    assert ended(repeated(range(64), 64 * 40), LoopLimits(10, 100, 64)) is not None


def test_without_repeats_nothing_is_a_loop() -> None:
    assert ended([5] * 5000, LoopLimits(0, 0, 64)) is None


@given(
    st.lists(st.integers(0, 1), max_size=40),
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
    st.integers(0, 300),
    st.lists(st.integers(0, 2), max_size=3),
)
def test_a_look_finds_what_the_definition_says(
    before: list[int], period: list[int], more: int, after: list[int]
) -> None:
    limits = LoopLimits(5, 40, 12)
    ids = before + repeated(period, more) + after
    ids = ids[: len(ids) - len(ids) % LOOK_EVERY]
    found = limits.look(ids) if ids else None
    periods = [
        period
        for period in range(1, 13)
        for needed in [max(40, 5 * period)]
        if len(ids) >= needed and all(ids[-i] == ids[-i - period] for i in range(1, needed - period + 1))
    ]
    assert (found.period if found is not None else None) == (min(periods) if periods else None)


RANDOM = random.Random(1)
LEGITIMATE = {
    "indentation": "def f():\n" + " " * 900 + "return 1\n",
    "a ruler": "=" * 900 + "\nTitle\n" + "-" * 900,
    "blank lines": "\n" * 900,
    "an array of zeros": "int a[300] = {" + "0, " * 299 + "0};",
    "an array of bytes, in rows": "\n".join(["    " + "0x00, " * 16] * 200),
    "a table of zeros": "\n".join([",".join(["0"] * 32)] * 250),
    "rows that are nearly equal": "\n".join(f"{number},0,0,0,0,true,null" for number in range(2000)),
    "objects with the same members": json.dumps([{"id": n, "name": "x", "tags": []} for n in range(1000)]),
    "equal lines": "- [ ] to do\n" * 299,
    "base64": base64.b64encode(bytes(600) + RANDOM.randbytes(3000) + bytes(600)).decode(),
    "a picture": "\n".join("#" * 40 + "." * (row % 40) + "#" * 40 for row in range(200)),
    "a path": "M0 0" + "".join(f"l{n % 7} {n % 5}" for n in range(1500)),
}


@pytest.mark.parametrize("text", LEGITIMATE.values(), ids=LEGITIMATE.keys())
def test_what_people_write_is_no_loop_by_default_even_where_each_character_is_a_token(text: str) -> None:
    assert ended([*text.encode()]) is None


def said(*steps: tuple[str, str, str]) -> list[Item]:
    """What an agent's conversation has: a question, then calls (name, arguments) and their results."""
    items: list[Item] = [Message(Role.USER, "is it done?")]
    for number, (name, arguments, result) in enumerate(steps):
        items += [ToolCall(f"c{number}", name, arguments), ToolResult(f"c{number}", result)]
    return items


LOOK = ("look", '{"at": 1, "deep": true}', "not yet")
READ, LIST, TEST = ("read", '{"path": "a"}', "A"), ("list", "{}", "a b"), ("test", "{}", "failed")


def test_the_same_calls_with_the_same_results_are_a_loop_and_the_next_one_is_known() -> None:
    assert repeated_call(said(*[LOOK] * 2), 3) is None
    found = repeated_call(said(TEST, READ, *[LOOK] * 3), 3)
    assert found is not None
    assert found.loop == Loop(LoopKind.CALLS, 1, 3)
    assert found.is_made_by("look", '{"deep":true,\n"at":1}')
    assert not found.is_made_by("look", '{"at": 2, "deep": true}')
    assert not found.is_made_by("look", '{"at": true, "deep": true}')
    assert not found.is_made_by("looks", LOOK[1])
    longer = repeated_call(said(*[LOOK] * 17), 3)
    assert longer is not None
    assert longer.loop.repeats == 17


@pytest.mark.parametrize(
    ("steps", "name"), [([READ, LIST], "read"), ([READ, LIST, TEST], "read"), ([READ, READ, LIST], "read")]
)
def test_calls_that_take_turns_are_a_loop_too(steps: list[tuple[str, str, str]], name: str) -> None:
    found = repeated_call(said(LOOK, *steps * 5), 5)
    assert found is not None
    assert (found.loop.period, found.loop.repeats, found.name) == (len(steps), 5, "read")
    assert repeated_call(said(LOOK, *(steps * 5)[1:]), 5) is None


def test_calls_of_one_answer_with_their_results_after_them_are_a_loop_too() -> None:
    items: list[Item] = [Message(Role.USER, "go")]
    for number in range(4):
        items += [Message(Role.ASSISTANT, f"Once more ({number})."), ToolCall(f"a{number}", "read", "{}")]
        items += [ToolCall(f"b{number}", "list", "{}"), ToolResult(f"b{number}", "B"), ToolResult(f"a{number}", "A")]
    found = repeated_call(items, 4)
    assert found is not None
    assert (found.name, found.loop.period) == ("read", 2)


def test_calls_with_one_id_belong_to_their_results_in_order() -> None:
    items: list[Item] = [Message(Role.USER, "go")]
    for number in range(3):
        items += [ToolCall("c", "look", "{}"), ToolResult("c", f"{number}")]
    assert repeated_call(items, 3) is None
    items[1:] = [ToolCall("c", "look", "{}"), ToolResult("c", "same")] * 3
    assert repeated_call(items, 3) is not None


@pytest.mark.parametrize(
    "items",
    [
        [],
        [Message(Role.USER, "hi")],
        said(*[("look", "{}", f"{number} %") for number in range(9)]),
        said(*[("look", f'{{"page": {number}}}', "nothing") for number in range(9)]),
        said(*[(f"look_{number}", "{}", "nothing") for number in range(9)]),
        said(*[LOOK] * 9, TEST),
        [*said(*[LOOK] * 9), ToolCall("last", LOOK[0], LOOK[1])],
        [*said(*[LOOK] * 9), Message(Role.USER, "and now?")],
        said(*[LOOK] * 2) * 9,
        [ToolResult("nobody's", "x")] * 9,
    ],
)
def test_what_changes_or_was_asked_for_anew_is_no_loop(items: list[Item]) -> None:
    assert repeated_call(items, 3) is None


@pytest.mark.parametrize("arguments", ["", "{", "[" * 100_000, "9" * 5000, '{"a": NaN}', "\x00"])
def test_arguments_that_are_no_json_are_compared_as_they_stand(arguments: str) -> None:
    found = repeated_call(said(*[("f", arguments, "")] * 3), 3)
    assert found is not None
    assert found.is_made_by("f", arguments)
    assert not found.is_made_by("f", arguments + "x")


def test_without_repeats_no_call_is_a_loop() -> None:
    assert repeated_call(said(*[LOOK] * 1000), 0) is None


def parsed(text: str, repeated: RepeatedCall, size: int) -> tuple[list[AnswerEvent], Loop | None, str]:
    """What is told of an answer that comes in pieces of a size, the loop that it goes on with, and what was read."""
    parser = LoopEndingParser(ScriptedParser(), repeated)
    events: list[AnswerEvent] = []
    read = ""
    for begin in range(0, len(text), size):
        events += parser.push(text[begin : begin + size])
        read = text[: begin + size]
        if parser.loop is not None:
            break
    return merged([*events, *parser.finish()]), parser.loop, read


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_call_that_goes_on_with_a_loop_is_not_told_and_ends_the_answer(size: int) -> None:
    again = RepeatedCall(LOOP, "f", "{1}")
    events, loop, read = parsed("well f{1} and g{2}", again, size)
    assert (events, loop) == ([TextDelta("well ")], LOOP)
    assert len(read) < len("well f{1}") + size
    assert parsed("f{1}", RepeatedCall(LOOP), size)[:2] == ([], LOOP)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("text", ["f{2}", "g{1}", "see g{1} f{1} so", "only prose", "f{1", "see f{", ""])
def test_any_other_answer_is_told_as_it_is(text: str, size: int) -> None:
    plain = ScriptedParser()
    expected = merged([*plain.push(text), *plain.finish()])
    events, loop, _ = parsed(text, RepeatedCall(LOOP, "f", "{1}"), size)
    assert ([shown(one) for one in events], loop) == ([shown(one) for one in expected], None)


def shown(event: AnswerEvent) -> object:
    match event:
        case CallStarted(index, _, name):
            return index, name
        case TextDelta(text) | ArgumentsDelta(_, text):
            return text
        case CallEnded(index, whole):
            return index, whole
