"""What holds for every answer, however wrong it is and however it arrives."""

from __future__ import annotations

import json
from dataclasses import astuple
from itertools import pairwise
from typing import NoReturn

from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.prompt.tools.answers import WRITE, events_of, parse

from quern.events import AnswerEvent, ArgumentsDelta, CallEnded, CallStarted, TextDelta
from quern.grammar.tool_calls import ToolFormat

FORMATS = st.sampled_from(list(ToolFormat))
PARTS = (
    "<tool_call>", "</tool_call>", "<tools>", "</tools>", "```json\n", "```", "\n", " ", "\t", "<", "</", "中", "😀",
    "x", "{", "}", "[", "]", '"', "'", ":", ",", "\\", "\\u12", "\\n", '\\"', '"""', "3", "-", "1.5", "nu", "null",
    "True", '"name"', '"arguments"', '"parameters"', '"get_weather"', '"fly"', '"city": "', '"days": ', '"lines": [',
    '{"name": "get_weather", "arguments": {', '{"name": "write_file", "arguments": {"content": "', "{{", "}}",
    "<function=get_weather>", "<function=fly>", "</function>", "<parameter=city>", "<parameter=days>",
    "<parameter=mode>", "<parameter=options>", "</parameter>", "<parameter=", "</para", "<tool_",
    "\\ud83d", "\\ude00", "\\\\ud83d", '"function": {', '{"tool_calls": [', '[{', '}, {', '"input"', '"type"', "\r\n",
    "</city>", "</parameter/>", "<parameter=\"city\">", "<function='fly'>", "<parameter=content>\n", "\n</parameter>\n",
    "\n</parameter>\n</function>\n</tool_call>", "</parameter=city>", '<parameter name="path">',
    " = ", "=>", ";", "// c\n", "# c\n", "/* c */", 'r"', "f'", "`", "“", "”", "path: ", '"write_file": {',
    '[{"path": ',
    '"name": "functions.get_weather"', "<parameter", "</function", "/", ">", "</tool_call>/", "<function=write_file>\n",
    "</function>\n<parameter=path>\n", "`<tool_call>", "```\n", "<tool_call/>",
)  # fmt: skip
BEGINNINGS = (
    "",
    '<tool_call>\n{"name": "write_file", "arguments": {',
    '```json\n{"name": "get_weather", "arguments": ',
    '<tool_call>{"name": "write_file", "arguments": "{\\"content\\": \\"\\ud83d',
    '<tool_call>{"name": "write_file", "arguments": {"lines": "[\\"\\ud83d',
    "<tool_call>\n<function=write_file>\n<parameter=",
    "<function=get_weather>\n<parameter=city>\n",
    '<tool_call>[{"name": "write_file", "path": "a", ',
    '<tool_call>{"name": "write_file", "arguments": {"path": "a"}, ',
    "<tool_call>\n<function=write_file>\n<parameter=path>\na.py\n</parameter>\n<parameter=content>\n",
)
GARBAGE = st.builds("{}{}".format, st.sampled_from(BEGINNINGS), st.lists(st.sampled_from(PARTS)).map("".join))
TEXTS = st.text("ab中😀<{}[]\"'\\\n\t\x00\u2028:, ")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=6,
)


@given(GARBAGE, FORMATS, st.booleans(), st.data())
def test_any_split_gives_the_same_events(answer: str, form: ToolFormat, opened: bool, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)))))
    pieces = [answer[start:end] for start, end in pairwise([0, *cuts, len(answer)])]
    assert events_of(pieces, form, opened=opened) == events_of([answer], form, opened=opened)


@given(GARBAGE, FORMATS, st.booleans())
def test_whatever_is_told_has_a_place_in_utf8(answer: str, form: ToolFormat, opened: bool) -> None:
    for event in events_of([answer], form, opened=opened)[0]:
        assert all(text.encode() for text in astuple(event) if isinstance(text, str))
    for _, arguments in parse(answer, form, opened=opened).calls:
        assert json.dumps(json.loads(arguments), ensure_ascii=False).encode()


@given(GARBAGE, FORMATS, st.booleans())
def test_every_call_ends_with_one_json_object(answer: str, form: ToolFormat, opened: bool) -> None:
    for _, arguments in parse(answer, form, opened=opened).calls:
        assert isinstance(json.loads(arguments, parse_constant=refuse), dict)


@given(GARBAGE, FORMATS, st.booleans())
def test_where_there_is_no_call_nothing_is_changed(answer: str, form: ToolFormat, opened: bool) -> None:
    parsed = parse(answer, form, opened=opened)
    if not parsed.calls:
        assert (parsed.text, parsed.repairs) == (answer, 0)


@given(st.text("ab中😀>}[]\"'\\\n\r\t \x00\u3000:,"), FORMATS, st.booleans())
def test_text_without_the_formats_characters_is_prose(answer: str, form: ToolFormat, opened: bool) -> None:
    assert events_of([answer], form, opened=opened) == ([TextDelta(answer)] if answer else [], 0)


@given(st.dictionaries(TEXTS, VALUES))
def test_right_json_needs_no_repair_and_arrives_unchanged(arguments: dict[str, object]) -> None:
    written = json.dumps({"name": "fly", "arguments": arguments}, ensure_ascii=False)
    parsed = parse(f"<tool_call>\n{written}\n</tool_call>", ToolFormat.JSON)
    assert parsed.calls == [("fly", json.dumps(arguments, ensure_ascii=False))]
    assert parsed.repairs == 0


@given(st.lists(st.sampled_from(["</parameter>", "</param", "</function", "\n", " ", "x", "<", "中"])).map("".join))
def test_an_end_of_a_parameter_within_a_value_is_a_part_of_it(value: str) -> None:
    answer = f"<tool_call>\n<function=fly>\n<parameter=to>\n{value}\n</parameter>\n</function>\n</tool_call>"
    parsed = parse(answer, ToolFormat.XML)
    assert parsed.arguments() == {"to": value}
    assert parsed.repairs == 0


TAGS = (
    "<tool_call>\n", "\n</tool_call>", "<function=write_file>\n", "<function=fly>\n", "\n</function>\n", "</function>",
    "<parameter=path>\n", "<parameter=content>\n", "<parameter=lines>\n", "<parameter=fake>\n", "\n</parameter>\n",
    "</parameter>", "</content>", "</parameter/>", "\r\n", "\n", "<", "</para",
)  # fmt: skip


@example(parts=["<function=write_file>\n", "\n</function>\n", "WORD"], opened=False)
@given(st.lists(st.sampled_from(TAGS) | st.just("WORD")), st.booleans())
def test_no_word_of_an_answer_in_xml_is_lost(parts: list[str], opened: bool) -> None:
    answer = "".join(f"w{index}." if part == "WORD" else part for index, part in enumerate(parts))
    kept = kept_of(events_of([answer], ToolFormat.XML, opened=opened)[0])
    assert all(f"w{index}." in kept for index, part in enumerate(parts) if part == "WORD")


OF_NO_OTHER_ARGUMENT = [tag for tag in (*TAGS, "text ") if tag not in {"<parameter=path>\n", "<parameter=lines>\n"}]


@given(st.lists(st.sampled_from(OF_NO_OTHER_ARGUMENT), max_size=12).map("".join))
def test_whatever_stands_in_a_text_it_arrives_or_its_call_is_not_whole(value: str) -> None:
    call = f"<function=write_file>\n<parameter=content>\n{value}\n</parameter>\n</function>"
    events, repairs = events_of([f"<tool_call>\n{call}\n</tool_call>"], ToolFormat.XML)
    fragments = [event.fragment for event in events if isinstance(event, ArgumentsDelta) and event.index == 0]
    whole = [event.whole for event in events if isinstance(event, CallEnded)]
    if whole == [True] and repairs == 0:
        assert json.loads("".join(fragments))["content"] == value
    if all(whole) and "<function=" not in value:  # else another call may begin in it
        assert not any("</parameter>" in event.text for event in events if isinstance(event, TextDelta))


PIECES_OF_ARGUMENTS = (
    '"path"', '"content"', "path", "content", '"x"', "x", '"print("hi")"', "'", '"', ":", " = ", " ", ",",
    ", ", ";", "\n",
    "{", "}", "[", "]", "1", "true", "None", 'r"a\\d"', '"""y"""', "`z`", "// c\n", "# c\n", "/* c */", "+", "“u”",
    "<b>",
    '"path": "a.py"', '"content": "x = 1"', '"lines": [1, 2]', '"path" "a.py"', '"content" = "b"', '"unknown": 1',
)  # fmt: skip
NO_COMMENTS = [piece for piece in PIECES_OF_ARGUMENTS if piece[:1] not in {"/", "#"}]


def _begins_with_json(text: str) -> bool:
    try:
        json.JSONDecoder().raw_decode(text)
    except ValueError:
        return False
    return True


@example('"unknown": 1}')
@given(st.lists(st.sampled_from((*PIECES_OF_ARGUMENTS, "}}")), max_size=10).map("".join))
def test_a_whole_call_whose_json_was_mended_has_no_argument_that_the_tool_does_not_have(written: str) -> None:
    call = f'{{"name": "write_file", "arguments": {{{written}}}}}'
    events, repairs = events_of([f"<tool_call>\n{call}\n</tool_call>"], ToolFormat.JSON)
    # Where only a brace too many comes behind it, what was written is what was meant.
    if repairs and not _begins_with_json(call) and all(one.whole for one in events if isinstance(one, CallEnded)):
        fragments = [event.fragment for event in events if isinstance(event, ArgumentsDelta) and event.index == 0]
        names = json.loads("".join(fragments) or "{}")
        assert set(names) <= set(WRITE.parameters["properties"])


@example(parts=["}", "WORD", '"path"'], shape='{"name": "write_file", "arguments": {%s}}')
@example(parts=['"path"', '"w1"', " ", '"path": "a.py"'], shape='{"name": "write_file", %s}')
@given(
    st.lists(st.sampled_from(NO_COMMENTS) | st.just("WORD"), max_size=10),
    st.sampled_from(
        ['{"name": "write_file", "arguments": {%s}}', '{"name": "write_file", %s}', '{"write_file": {%s}}']
    ),
)
def test_no_word_of_an_answer_in_json_is_lost(parts: list[str], shape: str) -> None:
    parts = [f'"w{index}"' if part == "WORD" else part for index, part in enumerate(parts)]
    events, _ = events_of([f"<tool_call>\n{shape % ''.join(parts)}\n</tool_call>"], ToolFormat.JSON)
    kept = kept_of(events)
    assert all(part.strip('"') in kept for part in parts if part.startswith('"w'))


def kept_of(events: list[AnswerEvent]) -> str:
    """Prose, the arguments of calls that are whole, and what was written of the others."""
    return "".join(
        text
        for event in events
        for text in astuple(event)
        if isinstance(text, str) and not (isinstance(event, ArgumentsDelta) and not whole(events, event.index))
    )


def whole(events: list[AnswerEvent], index: int) -> bool:
    return any(isinstance(event, CallEnded) and event.index == index and event.whole for event in events)


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


def kinds(events: list[AnswerEvent]) -> list[type]:
    return [type(event) for event in events]


def test_a_call_without_arguments_still_has_all_its_events() -> None:
    events, _ = events_of(["<tool_call><function=fly></function></tool_call>"], ToolFormat.XML)
    assert kinds(events) == [CallStarted, ArgumentsDelta, CallEnded]
