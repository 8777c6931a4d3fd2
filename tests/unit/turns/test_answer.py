"""An answer, put together: texts and calls in their order, with ids that never change."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.turns.scripted_parser import ScriptedParser

from quern.events import (
    ArgumentsDelta,
    CallEnded,
    CallStarted,
    Prefill,
    Queued,
    TextDelta,
    TextLogprobs,
    TokenLogprob,
    TurnEnded,
    TurnEvent,
)
from quern.turns.answer import Answer, OneText
from quern.turns.decoder import OutputParser
from quern.turns.identity import call_id, is_derived, item_id
from quern.types import Item, Message, Role, ToolCall, TurnState

TURN = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
OTHER = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"


def said(text: str) -> Message:
    return Message(Role.ASSISTANT, text)


def called(index: int, name: str, arguments: str) -> ToolCall:
    return ToolCall(call_id(TURN, index), name, arguments)


def read(pieces: Sequence[str], *, single_call: bool = False) -> tuple[Answer, OutputParser]:
    parser = OutputParser(ScriptedParser(), single_call=single_call)
    events = [event for piece in pieces for event in parser.push(piece)]
    return Answer([*events, *parser.finish()]), parser


def test_without_a_parser_everything_is_text() -> None:
    parser = OutputParser(None)
    assert parser.push("f{1}") == [TextDelta("f{1}")]
    assert parser.push("") == []
    assert parser.finish() == []
    assert (parser.calls_ended, parser.repairs, parser.complete) == (0, 0, False)


def test_calls_are_told_with_their_ids_as_they_come() -> None:
    parser = OutputParser(ScriptedParser())
    assert parser.push("ab") == [TextDelta("a")]
    assert parser.push("{1") == [
        CallStarted(0, call_id(TURN, 0), "b"),
        ArgumentsDelta(0, "{"),
        ArgumentsDelta(0, "1"),
    ]
    assert parser.calls_ended == 0
    assert parser.push("}c{") == [
        ArgumentsDelta(0, "}"),
        CallEnded(0),
        CallStarted(1, call_id(TURN, 1), "c"),
        ArgumentsDelta(1, "{"),
    ]
    assert parser.calls_ended == 1
    assert not parser.cut_off
    assert parser.finish() == [CallEnded(1, whole=False)]
    assert parser.cut_off
    assert (parser.calls_ended, parser.repairs) == (2, 1)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("one two", [said("one two")]),
        ("f{1}", [called(0, "f", "{1}")]),
        ("see: f{1}", [said("see: "), called(0, "f", "{1}")]),
        ("see: f{1} and", [said("see: "), called(0, "f", "{1}"), said(" and")]),
        ("f{}g{2}.f{3}", [called(0, "f", "{}"), called(1, "g", "{2}"), said("."), called(2, "f", "{3}")]),
        ("f{cut", [said("")]),
        ("see: f{cut", [said("see: ")]),
        ("f{1}g{cut", [called(0, "f", "{1}")]),
        ("", [said("")]),
    ],
)
def test_texts_and_calls_stand_in_the_order_in_which_they_came(text: str, items: list[Item]) -> None:
    answer, _ = read(list(text))
    assert answer.items() == items
    assert answer.text == "\n\n".join(item.content for item in items if isinstance(item, Message))
    assert answer.calls == [item for item in items if isinstance(item, ToolCall)]


@given(st.text("fg{}1. ", max_size=30), st.data())
def test_told_piece_by_piece_the_texts_are_the_one_text_of_the_whole_answer(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    parser, told = OutputParser(ScriptedParser()), OneText()
    events = [event for piece in pieces for event in parser.push(piece)] + [*parser.finish()]
    assert "".join(map(told.take, events)) == Answer(events).text


def test_between_the_texts_around_calls_is_one_paragraph_break_and_none_before_the_first() -> None:
    assert read(["f{1}a f{1}g{2}b f{3}"])[0].text == "a \n\nb "
    assert read(["f{1}g{2} x"])[0].text == " x"


@given(st.text("fg{}1. ", max_size=30), st.data())
def test_however_the_text_is_split_the_answer_and_its_ids_are_the_same(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for single_call in (False, True):
        whole, _ = read([text], single_call=single_call)
        answer, _ = read(pieces, single_call=single_call)
        assert answer.new_items(TURN) == whole.new_items(TURN)


def test_an_answer_without_anything_is_an_empty_message() -> None:
    assert Answer().items() == [said("")]
    assert Answer().text == ""
    assert Answer().calls == []
    assert [item.item for item in Answer().new_items(TURN)] == [said("")]


def test_events_that_say_nothing_change_nothing() -> None:
    events: list[TurnEvent] = [
        Queued(1),
        Prefill(1, 2, 0),
        TextDelta("a"),
        TextLogprobs((TokenLogprob(b"b", -1.0),)),
        TextDelta("b"),
        TurnEnded(TurnState.COMPLETED),
    ]
    assert Answer(events).items() == [said("ab")]


def test_ids_are_the_same_whenever_they_are_asked_for_and_differ_from_all_others() -> None:
    answer, _ = read(["see: f{1}g{2}"])
    ids = [item.id for item in answer.new_items(TURN)]
    assert ids == [item_id(TURN, index) for index in range(3)]
    assert ids == [item.id for item in read(list("see: f{1}g{2}"))[0].new_items(TURN)]
    others = {item_id(OTHER, index) for index in range(3)}
    calls = {call_id(turn, index) for turn in (TURN, OTHER) for index in range(3)}
    assert len({*ids, *others, *calls}) == 12


def test_an_answers_items_can_be_told_from_what_was_said_to_the_model() -> None:
    assert all(is_derived(item_id(TURN, index)) for index in range(5))
    assert not any(is_derived(str(uuid.uuid4())) for _ in range(50))


def test_where_one_call_is_wanted_the_answer_is_over_with_it() -> None:
    parser = OutputParser(ScriptedParser(), single_call=True)
    parser.push("see: f{1")
    assert not parser.complete
    assert parser.push("}") == [ArgumentsDelta(0, "}"), CallEnded(0)]
    assert parser.complete
    assert parser.push("g{2}") == []
    assert parser.finish() == []


def test_where_one_call_is_wanted_what_comes_with_its_end_is_left_out() -> None:
    answer, parser = read(["f{1}g{2} and mo"], single_call=True)
    assert answer.items() == [called(0, "f", "{1}")]
    assert (parser.calls_ended, parser.repairs) == (1, 0), "what the server itself cut off is no slip of the model"
