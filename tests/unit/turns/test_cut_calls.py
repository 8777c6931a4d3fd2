"""A call that the end of the answer cut off is told so that nobody can take it for a whole one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.events import ArgumentsDelta, CallEnded, CallStarted, TurnEvent
from quern.grammar.tool_calls import ToolFormat
from quern.prompt.tools.answer_parser import answer_parser
from quern.turns.answer import Answer
from quern.turns.decoder import OutputParser
from quern.turns.identity import item_id
from quern.types import Message, Role, Tool

TURN = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
RUN = Tool("run", "", {"type": "object", "properties": {"cmd": {"type": "string"}, "times": {"type": "integer"}}})
CALLS = {
    ToolFormat.JSON: [
        '<tool_call>\n{"name": "run", "arguments": {"cmd": "rm -rf /tmp/build", "times": 12}}\n</tool_call>',
        '<tool_call>\n{"name": "run", "arguments": "{\\"cmd\\": \\"ls\\"}"}\n</tool_call>',
    ],
    ToolFormat.XML: [
        "<tool_call>\n<function=run>\n<parameter=cmd>\nls\n</parameter>\n<parameter=times>\n12\n</parameter>\n</function>"
    ],
}
FORMATS_AND_CALLS = [(written_as, call) for written_as, calls in CALLS.items() for call in calls]


def told(written_as: ToolFormat, *pieces: str) -> list[TurnEvent]:
    reader = OutputParser(answer_parser(written_as, [RUN], "call_{}".format))
    return [*(event for piece in pieces for event in reader.push(piece)), *reader.finish()]


def arguments(events: list[TurnEvent]) -> str:
    return "".join(event.fragment for event in events if isinstance(event, ArgumentsDelta))


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("written_as", "call"), FORMATS_AND_CALLS)
def test_wherever_a_call_is_cut_its_arguments_are_json_only_if_it_is_told_as_whole(
    written_as: ToolFormat, call: str
) -> None:
    outcomes: set[bool | None] = set()
    for end in range(len(call) + 1):
        events = told(written_as, call[:end])
        begun = any(isinstance(event, CallStarted) for event in events)
        whole = CallEnded(0) in events
        outcomes.add(whole if begun else None)
        assert (CallEnded(0, whole=False) in events) == (begun and not whole)
        assert not begun or is_json(arguments(events)) == whole
        assert bool(Answer(events).calls) == whole
    assert outcomes == {None, False, True}


@given(st.sampled_from(FORMATS_AND_CALLS), st.data())
def test_read_again_in_other_pieces_a_cut_call_is_the_same(which: tuple[ToolFormat, str], data: st.DataObject) -> None:
    written_as, call = which
    written = call[: data.draw(st.integers(0, len(call)))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)))))
    pieces = [written[start:end] for start, end in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    once, again = told(written_as, written), told(written_as, *pieces)
    assert arguments(again) == arguments(once)
    assert Answer(again).new_items(TURN) == Answer(once).new_items(TURN)


@pytest.mark.parametrize(("written_as", "call"), FORMATS_AND_CALLS)
def test_wherever_an_answer_is_cut_all_of_it_is_still_there(written_as: ToolFormat, call: str) -> None:
    for end in range(len(call)):
        answer = Answer(told(written_as, "I run it.\n" + call[:end]))
        if not answer.calls:
            assert answer.text.split() == ("I run it.\n" + call[:end]).split()
            assert all(isinstance(item, Message) for item in answer.items())


def test_what_was_written_of_a_cut_call_is_a_message_of_its_own_without_the_calls_id() -> None:
    written = CALLS[ToolFormat.JSON][0][:60]
    before, item = Answer(told(ToolFormat.JSON, f"I run it.\n\n{written}")).new_items(TURN)
    assert before.item == Message(Role.ASSISTANT, "I run it.")
    assert item.item == Message(Role.ASSISTANT, written)
    assert before.id == item_id(TURN, 0)
    assert item.id not in {item_id(TURN, place) for place in range(4)}, "the call was told under the second id"


@pytest.mark.parametrize("rest", ["Then more.", CALLS[ToolFormat.JSON][0]])
def test_what_follows_a_call_that_can_not_be_mended_keeps_the_id_under_which_it_was_told(rest: str) -> None:
    junk = CALLS[ToolFormat.JSON][0].replace('"cmd": ', '"cmd", ')
    events = told(ToolFormat.JSON, f"{junk}\n{rest}")
    reader = [event for event in events if isinstance(event, CallEnded)]
    assert reader[0] == CallEnded(0, whole=False)
    assert not is_json(
        "".join(event.fragment for event in events if isinstance(event, ArgumentsDelta) and event.index == 0)
    )
    written, after = Answer(events).new_items(TURN)
    assert isinstance(written.item, Message)
    assert junk.startswith(written.item.content)
    assert '"rm -rf /tmp/build", "times": 12' in written.item.content
    assert after.id == item_id(TURN, 1)


def test_an_answer_with_a_call_that_can_not_be_mended_does_not_end_with_calls() -> None:
    call = CALLS[ToolFormat.JSON][0]
    reader = OutputParser(answer_parser(ToolFormat.JSON, [RUN], "call_{}".format))
    events = [*reader.push(call.replace('"cmd": ', '"cmd", ') + call), *reader.finish()]
    assert [event.whole for event in events if isinstance(event, CallEnded)] == [False, True]
    assert reader.cut_off
