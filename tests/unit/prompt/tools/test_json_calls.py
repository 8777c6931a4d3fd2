"""Calls in Qwen2.5's format: right ones, and each slip that is mended."""

from __future__ import annotations

import json

import pytest
from tests.unit.prompt.tools.answers import CALL_ID, CODE, TOOLS, Parsed, events_of, whole_calls
from tests.unit.prompt.tools.answers import parse as parse_answer

from quern.events import ArgumentsDelta, CallEnded, CallStarted, TextDelta
from quern.grammar.tool_calls import ToolFormat
from quern.prompt.tools.answer_parser import answer_parser
from quern.types import Tool

BERLIN = '{"name": "get_weather", "arguments": {"city": "Berlin"}}'
TOKYO = '{"name": "get_weather", "arguments": {"city": "东京 😀"}}'
BERLIN_CALL = ("get_weather", '{"city": "Berlin"}')
TOKYO_CALL = ("get_weather", '{"city": "东京 😀"}')


def parse(answer: str, *, opened: bool = False) -> Parsed:
    return parse_answer(answer, ToolFormat.JSON, opened=opened)


def tagged(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


def writing(arguments: str) -> str:
    return tagged('{"name": "write_file", "arguments": ' + arguments + "}")


def test_a_call_between_its_tags_needs_no_repair() -> None:
    assert parse(tagged(BERLIN)) == Parsed("", [BERLIN_CALL], 0)


def test_calls_follow_each_other() -> None:
    assert parse(f"{tagged(BERLIN)}\n{tagged(TOKYO)}") == Parsed("", [BERLIN_CALL, TOKYO_CALL], 0)


def test_prose_and_calls_come_in_order_and_the_white_space_between_them_goes() -> None:
    events, repairs = events_of([f" 我看看。\n\n{tagged(BERLIN)}\n\n{tagged(TOKYO)}\n\nDone.\n"], ToolFormat.JSON)
    assert repairs == 0
    assert events == [
        TextDelta(" 我看看。"),
        CallStarted(0, "call_0", "get_weather"),
        ArgumentsDelta(0, '{"city": "Berlin"}'),
        CallEnded(0),
        CallStarted(1, "call_1", "get_weather"),
        ArgumentsDelta(1, '{"city": "东京 😀"}'),
        CallEnded(1),
        TextDelta("Done.\n"),
    ]


def test_arguments_are_told_while_they_are_written() -> None:
    parser = answer_parser(ToolFormat.JSON, TOOLS, CALL_ID)
    assert parser.push('<tool_call>\n{"name": "write_file", "argum') == []
    assert parser.push('ents": {') == [CallStarted(0, "call_0", "write_file"), ArgumentsDelta(0, "{")]
    assert parser.push('"path": "a.py", "con') == [ArgumentsDelta(0, '"path": "a.py"')]
    assert parser.push('tent": "print(') == [ArgumentsDelta(0, ', "content": "print(')]
    assert parser.push('\\"中\\"') == [ArgumentsDelta(0, '\\"中\\"')]
    assert parser.push(')"}') == [ArgumentsDelta(0, ')"')]
    assert parser.push("}\n</tool_call>") == [ArgumentsDelta(0, "}"), CallEnded(0)]
    assert parser.finish() == []
    assert parser.repairs == 0


def test_code_arrives_as_it_was_meant() -> None:
    arguments: dict[str, object] = {
        "path": "a.py",
        "content": CODE,
        "options": {"deep": [{"x": [None, True, -1.5e3]}], "é": {}},
    }
    answer = parse(writing(json.dumps(arguments)))
    assert answer.arguments() == arguments
    assert answer.repairs == 0


def test_arguments_are_written_like_json_dumps_writes_them() -> None:
    pretty = json.dumps({"path": "a", "content": "中", "lines": [1, 2], "options": {}}, indent=4, ensure_ascii=False)
    answer = parse(writing(pretty))
    assert answer.calls == [("write_file", '{"path": "a", "content": "中", "lines": [1, 2], "options": {}}')]
    assert answer.repairs == 0


def test_the_space_around_tags_means_nothing() -> None:
    assert parse(f"\n<tool_call> {BERLIN}</tool_call> \n\n") == Parsed("", [BERLIN_CALL], 0)


def test_a_call_of_an_unknown_tool_is_a_call_between_tags() -> None:
    assert parse(tagged('{"name": "fly", "arguments": {"to": "火星"}}')) == Parsed("", [("fly", '{"to": "火星"}')], 0)


@pytest.mark.parametrize(
    "written",
    [
        BERLIN,
        f"\n  {BERLIN}\n",
        f"```json\n{BERLIN}\n```",
        f"```\n{BERLIN}\n```\n",
        f"```tool_call\n{json.dumps(json.loads(BERLIN), indent=2)}\n```",
        f"<tools>\n{BERLIN}\n</tools>",
        f"<function_call>{BERLIN}</function_call>",
        f"<tools>\n{BERLIN}",
        f"```json\n{BERLIN}",
        f"{BERLIN}\n</tool_call>",
    ],
)
def test_without_its_opening_tag_it_is_a_call_if_the_tool_is_known(written: str) -> None:
    assert parse(written) == Parsed("", [BERLIN_CALL], 1)
    unknown = written.replace("get_weather", "fly")
    assert parse(unknown) == Parsed(unknown, [], 0)


@pytest.mark.parametrize(
    "prose",
    [
        f"An example: {BERLIN}",
        '{"name": "get_weather"}',
        '{"name": "get_weather", "description": "Current weather of a city.", "parameters": {}}',
        '{"arguments": {"city": "Berlin"}, "name": "get_weather"}',
        '```json\n{"name": "demo", "debug": true}\n```',
        '```json\n{\n  "get_weather": {"arguments": {}}\n}\n```\n',
        '```python\ncall = {"name": "get_weather", "arguments": {}}\n```',
    ],
)
def test_other_objects_are_prose(prose: str) -> None:
    assert parse(prose) == Parsed(prose, [], 0)


def test_a_code_block_with_a_call_may_stand_between_prose() -> None:
    answer = parse(f"Here is the call:\n\n```json\n{BERLIN}\n```\n\nIt tells the weather. ```x```")
    assert answer == Parsed("Here is the call:It tells the weather. ```x```", [BERLIN_CALL], 1)


def test_calls_on_lines_of_their_own_are_separate_slips() -> None:
    assert parse(f"{BERLIN}\n{TOKYO}") == Parsed("", [BERLIN_CALL, TOKYO_CALL], 2)
    assert parse(f"```json\n{BERLIN}\n{TOKYO}\n```") == Parsed("", [BERLIN_CALL, TOKYO_CALL], 2)
    assert parse(f"```json\n{BERLIN}\n```json\n{TOKYO}\n```") == Parsed("", [BERLIN_CALL, TOKYO_CALL], 2)


def test_a_code_block_after_a_call_is_prose() -> None:
    assert parse(f"{tagged(BERLIN)}\n```python\nx\n```") == Parsed("```python\nx\n```", [BERLIN_CALL], 0)


def test_two_calls_in_one_pair_of_tags_are_two_calls() -> None:
    assert parse(tagged(f"{BERLIN}\n{TOKYO}")) == Parsed("", [BERLIN_CALL, TOKYO_CALL], 1)
    unknown = '{"name": "fly", "arguments": {}}'
    assert parse(tagged(f"{BERLIN}{unknown}")).calls == [BERLIN_CALL, ("fly", "{}")]


def test_doubled_opening_tags_open_one_call() -> None:
    assert parse(f"<tool_call>\n<tool_call>\n{BERLIN}\n</tool_call>") == Parsed("", [BERLIN_CALL], 1)
    assert parse(f"{tagged(BERLIN)}\n</tool_call>") == Parsed("", [BERLIN_CALL], 1)


def test_a_code_block_between_the_tags_is_a_slip() -> None:
    assert parse(tagged(f"```json\n{BERLIN}\n```")) == Parsed("", [BERLIN_CALL], 1)


def test_a_missing_closing_tag_is_a_slip() -> None:
    assert parse(f"<tool_call>\n{BERLIN}") == Parsed("", [BERLIN_CALL], 1)
    assert parse(f"<tool_call>\n{BERLIN}\n{tagged(TOKYO)}") == Parsed("", [BERLIN_CALL, TOKYO_CALL], 1)
    assert parse(f"<tool_call>\n{BERLIN}\nDone.") == Parsed("Done.", [BERLIN_CALL], 1)


def test_braces_may_be_too_many_or_missing() -> None:
    assert parse(tagged(BERLIN + "}")) == Parsed("", [BERLIN_CALL], 1)
    assert parse(tagged(BERLIN[:-1])) == Parsed("", [BERLIN_CALL], 1)
    assert parse(tagged(BERLIN[:-2])) == Parsed("", [BERLIN_CALL], 1)
    assert parse(f"```json\n{BERLIN[:-2]}\n```") == Parsed("", [BERLIN_CALL], 2)
    assert parse(tagged("{" + BERLIN + "}")) == Parsed("", [BERLIN_CALL], 1)


def test_parameters_are_arguments() -> None:
    assert parse(tagged(BERLIN.replace("arguments", "parameters"))) == Parsed("", [BERLIN_CALL], 1)


def test_the_name_may_come_last_between_tags() -> None:
    assert parse(tagged('{"arguments": {"city": "Berlin"}, "name": "get_weather"}')) == Parsed("", [BERLIN_CALL], 0)
    last = tagged('{"arguments": {"city": 5}, "name": "get_weather"}')
    assert parse(last) == Parsed("", [("get_weather", '{"city": "5"}')], 1)


def test_members_that_mean_nothing_are_dropped() -> None:
    before = tagged('{"id": 7, "name": "get_weather", "arguments": {"city": "Berlin"}}')
    after = tagged(BERLIN[:-1] + ', "description": """It\'s\n"fine".""", "x": [1]}')
    assert parse(before) == Parsed("", [BERLIN_CALL], 1)
    assert parse(after) == Parsed("", [BERLIN_CALL], 3)


def test_a_call_without_arguments_gets_an_empty_object() -> None:
    assert parse(tagged('{"name": "get_time"}')) == Parsed("", [("get_time", "{}")], 1)
    assert parse(tagged('{"name": "get_time", "arguments": null}')) == Parsed("", [("get_time", "{}")], 1)
    assert parse(tagged('{"name": "get_time", "arguments": {}}')) == Parsed("", [("get_time", "{}")], 0)


def test_arguments_as_a_string_with_json_inside_are_the_object() -> None:
    arguments = '{"city": "柏林", "days": 3}'
    answer = parse(tagged(json.dumps({"name": "get_weather", "arguments": arguments})))
    assert answer == Parsed("", [("get_weather", arguments)], 1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r'{"content": "\ud83d 中"}', {"content": "\ufffd 中"}),
        (r'{"content": "\ud83d"}', {"content": "\ufffd"}),
        (r'{"content": "\ude00\ud83d\n\uD83D\u4e2d\ud83d"}', {"content": "\ufffd\ufffd\n\ufffd中\ufffd"}),
        (r'{"content": "\ud83d\ud83d\ude00\ude00"}', {"content": "\ufffd😀\ufffd"}),
        (r'{"\udead": "\ud83d\ude00"}', {"\ufffd": "😀"}),
        (r'"{\"content\": \"\ud83d 中\"}"', {"content": "\ufffd 中"}),
        (r'"{\"content\": \"\\ud83d 中\"}"', {"content": "\ufffd 中"}),
        (r'"{\"content\": \"\ud83d\ude00\"}"', {"content": "😀"}),
        (r'{"lines": "[\"\ud83d 中\"]"}', {"lines": ["\ufffd 中"]}),
        (r'{"lines": "[\ud83d]"}', {"lines": ["\ufffd"]}),
        (r'{"content": """\ud83d\ude00 \ude00"\ud83d"""}', {"content": '😀 \ufffd"\ufffd'}),
    ],
)
def test_half_a_character_becomes_the_replacement_character(written: str, meant: dict[str, object]) -> None:
    assert parse(writing(written)).arguments() == meant


@pytest.mark.parametrize(
    ("written", "meant", "repairs"),
    [
        ('{"days": "3"}', {"days": 3}, 1),
        ('{"days": 3.0}', {"days": 3}, 1),
        ('{"days": "three"}', {"days": "three"}, 0),
        ('{"hourly": "true"}', {"hourly": True}, 1),
        ('{"hourly": "False"}', {"hourly": False}, 1),
        ('{"hourly": True}', {"hourly": True}, 1),
        ('{"city": 10115}', {"city": "10115"}, 1),
        ('{"city": true}', {"city": "true"}, 1),
        ('{"city": null}', {"city": None}, 0),
        ('{"unit": "kelvin"}', {"unit": "kelvin"}, 0),
        ('{"zoom": "3", "more": [1, {"a": "b"}]}', {"zoom": "3", "more": [1, {"a": "b"}]}, 0),
    ],
)
def test_values_of_the_wrong_type_are_brought_to_the_right_one(
    written: str, meant: dict[str, object], repairs: int
) -> None:
    answer = parse(tagged('{"name": "get_weather", "arguments": ' + written + "}"))
    assert (answer.arguments(), answer.repairs) == (meant, repairs)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('{"lines": "[1, 2]"}', {"lines": [1, 2]}),
        ('{"options": "{\\"a\\": 1}"}', {"options": {"a": 1}}),
        ('{"options": "{\'a\': None}"}', {"options": {"a": None}}),
        ('{"content": {"debug": true}}', {"content": '{"debug": true}'}),
        ('{"ratio": "0.5"}', {"ratio": 0.5}),
    ],
)
def test_json_in_a_string_and_a_string_as_json_are_each_other(written: str, meant: dict[str, object]) -> None:
    answer = parse(writing(written))
    assert (answer.arguments(), answer.repairs) == (meant, 1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('{"content": "a\n\tb"}', {"content": "a\n\tb"}),
        ('{"content": "find . -exec rm {} \\;"}', {"content": "find . -exec rm {} \\;"}),
        ('{"content": "it\\\'s"}', {"content": "it's"}),
        ('{"content": "\\u4e2d\\u00"}', {"content": "中\\u00"}),
        ('{"content": """\nclass A:\n    "doc"\n"""}', {"content": '\nclass A:\n    "doc"\n'}),
        ('{"content": "print("hi")"}', {"content": 'print("hi")'}),
        ('{"content": \'say "中"\'}', {"content": 'say "中"'}),
        ('{"path": "a", "lines": [1, 2,],}', {"path": "a", "lines": [1, 2]}),
        ('{"path": "a"\n"content": "b"}', {"path": "a", "content": "b"}),
        ('{"lines": [1, 2}', {"lines": [1, 2]}),
        ('{path: "a"}', {"path": "a"}),
        ('{"path": a.py}', {"path": "a.py"}),
        ('{{"path": "a"}}', {"path": "a"}),
        ('{"path": , "content": "b"}', {"path": None, "content": "b"}),
        ('{"ratio": .5}', {"ratio": 0.5}),
    ],
)
def test_what_json_does_not_allow_is_mended(written: str, meant: dict[str, object]) -> None:
    answer = parse(writing(written))
    assert answer.arguments() == meant
    assert answer.repairs >= 1
    assert answer.text == ""


@pytest.mark.parametrize(
    ("begun", "meant"),
    [
        ('{"path": "a.py", "content": "def f():\\n    ret', {"path": "a.py", "content": "def f():\n    ret"}),
        ('{"path": "a.py", "content": "中\\', {"path": "a.py", "content": "中"}),
        ('{"path": "a.py", "content": "中\\u4e', {"path": "a.py", "content": "中"}),
        ('{"path": "中\\ud83d', {"path": "中\ufffd"}),
        ('{"path": "a.py", "content": ', {"path": "a.py", "content": None}),
        ('{"path": "a.py", "cont', {"path": "a.py"}),
        ('{"path": "a.py",', {"path": "a.py"}),
        ('{"options": {"a": [1, {"b": "c', {"options": {"a": [1, {"b": "c"}]}}),
        ('{"lines": [1, 2', {"lines": [1, 2]}),
        ("{", {}),
        ('{"path": "a"}', {"path": "a"}),
    ],
)
def test_a_call_that_is_cut_off_is_completed_by_one_repair(begun: str, meant: dict[str, object]) -> None:
    answer = parse('<tool_call>\n{"name": "write_file", "arguments": ' + begun)
    assert (answer.arguments(), answer.repairs, answer.text) == (meant, 1, "")


@pytest.mark.parametrize(
    "cut",
    [
        '{"path": "a.py", "content": "x',
        '{"path": "a.py"',
        '{"path": "a.py", ',
        '{"lines": [1, 2',
        '{"ratio": 1',
        "{",
        '"{\\"path\\": \\"a',
        '"{\\"path\\": \\"a.py\\"',
    ],
)
def test_a_call_whose_arguments_the_answers_end_cut_off_is_not_whole(cut: str) -> None:
    written = f'{tagged(BERLIN)}\n<tool_call>\n{{"name": "write_file", "arguments": {cut}'
    assert whole_calls(written, ToolFormat.JSON) == [True, False]


@pytest.mark.parametrize(
    "rest",
    [
        '{"path": "a.py"}',
        '{"path": "a.py"}}',
        '{"path": "a.py"}}\n</tool',
        '{"ratio": "3",}',
        '{"path": "a.py"</tool_call>',
        '"{\\"path\\": 3}"',
        '"{\\"path\\": 3}',
        '"{\\"path\\": 3"}',
        "null",
    ],
)
def test_a_call_whose_arguments_the_model_completed_is_whole_even_where_more_is_missing(rest: str) -> None:
    written = f'<tool_call>\n{{"name": "write_file", "arguments": {rest}'
    assert whole_calls(written, ToolFormat.JSON) == [True]


@pytest.mark.parametrize("begun", ["<tool_", "<tool_call>\n", '<tool_call>\n{"name": "get_we', "```json\n{", "\n"])
def test_a_beginning_that_is_cut_off_before_its_arguments_is_prose(begun: str) -> None:
    assert parse(f"好的 {begun}") == Parsed(f"好的 {begun}", [], 0)


@pytest.mark.parametrize(
    "content",
    [
        "Berlin",
        "{}",
        '{"city": "Berlin"}',
        '{"name": <function-name>, "arguments": <args-json-object>}',
        '{"name": "get_weather" and so on}',
        '{"name": "get_weather", "arguments": "in Berlin"}',
        '{"name": "get_weather", "arguments": ["Berlin"]}',
        '{"name": 5, "arguments": {}}',
        "",
    ],
)
def test_tags_around_what_is_no_call_are_prose_with_it(content: str) -> None:
    assert parse(f"So:\n{tagged(content)}\n\n") == Parsed(f"So:\n{tagged(content)}\n\n", [], 0)


def test_containers_in_each_other_without_end_are_closed() -> None:
    answer = parse('<tool_call>{"name": "get_time", "arguments": {"x": ' + "[" * 5000)
    ((_, arguments),) = answer.calls
    assert json.loads(arguments)["x"]


def test_a_demanded_call_begins_after_the_opening_and_needs_no_closing() -> None:
    assert parse(BERLIN, opened=True) == Parsed("", [BERLIN_CALL], 0)
    assert parse(f"{BERLIN}\n</tool_call>", opened=True) == Parsed("", [BERLIN_CALL], 0)
    assert parse(f"{BERLIN}\n</tool_call>\n{tagged(TOKYO)}", opened=True).repairs == 0
    assert parse(f"```json\n{BERLIN}\n```", opened=True) == Parsed("", [BERLIN_CALL], 1)
    assert parse('{"name": "fly", "arguments": {', opened=True) == Parsed("", [("fly", "{}")], 1)


def test_prose_in_place_of_a_demanded_call_is_prose() -> None:
    assert parse("\n我不能。\n", opened=True) == Parsed("\n我不能。\n", [], 0)
    assert parse('{"name": "fly"', opened=True) == Parsed('{"name": "fly"', [], 0)
    assert parse(f"Well:\n{BERLIN}", opened=True) == Parsed("Well:", [BERLIN_CALL], 1)


def test_the_other_format_between_the_tags_is_a_slip() -> None:
    other = "<function=get_weather>\n<parameter=city>\nBerlin\n</parameter>\n</function>"
    assert parse(tagged(other)) == Parsed("", [BERLIN_CALL], 1)
    assert parse(other) == Parsed(other, [], 0)


FILE = ("write_file", '{"path": "a", "content": "b"}')
ARGUMENTS = FILE[1]


@pytest.mark.parametrize(
    "written",
    [
        '{"name": "write_file", "path": "a", "content": "b"}',
        '{"path": "a", "name": "write_file", "content": "b"}',
        '{"id": "call_1", "type": "function", "name": "write_file", "path": "a", "content": "b"}',
        '{"name": "write_file", "input": OBJECT}',
        '{"name": "write_file", "args": OBJECT}',
        '{"name": "write_file", "params": OBJECT}',
        '{"name": "write_file", "parameters": OBJECT}',
        '{"input": OBJECT, "name": "write_file"}',
        '{"name": "write_file", "args": TEXT}',
        '{"arguments": TEXT, "name": "write_file"}',
        '{"tool": "write_file", "arguments": OBJECT}',
        '{"function": "write_file", "path": "a", "content": "b"}',
        '{"name": "write_file", "arguments": {"path": "a"}, "content": "b"}',
        '{"name": "write_file", "arguments": {}, "path": "a", "content": "b"}',
        '{"type": "function", "function": {"name": "write_file", "arguments": OBJECT}}',
        '{"type": "function", "function": {"name": "write_file", "arguments": TEXT}}',
        '{"function": {"arguments": OBJECT, "name": "write_file"}, "id": "call_1", "type": "function"}',
        '{"type": "function", "function": {"name": "write_file"}, "arguments": OBJECT}',
        '[{"name": "write_file", "arguments": OBJECT}]',
        '{"tool_calls": [{"type": "function", "function": {"name": "write_file", "arguments": OBJECT}}]}',
    ],
)
def test_arguments_in_another_place_or_under_another_name_are_kept(written: str) -> None:
    written = written.replace("OBJECT", ARGUMENTS).replace("TEXT", json.dumps(ARGUMENTS))
    answer = parse(tagged(written))
    assert (answer.text, answer.calls) == ("", [FILE])
    assert answer.repairs > 0
    assert whole_calls(tagged(written), ToolFormat.JSON) == [True]


def test_members_beside_the_name_are_arguments_of_an_unknown_tool_too() -> None:
    assert parse(tagged('{"name": "fly", "to": "火星", "args": [1]}')).calls == [("fly", '{"to": "火星", "args": [1]}')]
    assert parse(tagged('{"name": "fly", "input": "x"}')).calls == [("fly", '{"input": "x"}')]


def test_a_tools_own_argument_of_such_a_name_is_that() -> None:
    tool = Tool("run", "", {"properties": {"input": {"type": "object"}, "id": {"type": "integer"}, "name": {}}})
    written = tagged('{"name": "run", "input": {"a": 1}, "id": "3", "name": "x"}')
    (call,) = parse_answer(written, ToolFormat.JSON, [tool]).calls
    assert call == ("run", '{"input": {"a": 1}, "id": 3, "name": "x"}')


def test_values_beside_the_name_are_brought_to_their_types() -> None:
    assert parse(tagged('{"name": "get_weather", "city": 5, "days": "3"}')).arguments() == {"city": "5", "days": 3}


@pytest.mark.parametrize("nothing", ['""', '" "', '"null"', "null", "{}", "[]", '"{}"', "' '", '"\\n"'])
@pytest.mark.parametrize("shape", ['{"name": "get_time", "arguments": %s}', '{"arguments": %s, "name": "get_time"}'])
def test_blank_arguments_are_none(nothing: str, shape: str) -> None:
    if nothing.startswith("'") and shape.startswith('{"a'):
        return
    answer = parse(tagged(shape % nothing))
    assert (answer.text, answer.calls) == ("", [("get_time", "{}")])
    assert whole_calls(tagged(shape % nothing), ToolFormat.JSON) == [True]


@pytest.mark.parametrize(
    "written",
    [
        "[%s, %s]",
        "[\n  %s,\n  %s\n]\n",
        "[%s,%s,]",
        '{"tool_calls": [%s, %s]}',
        '{ "calls" :\n[ %s, %s ] }',
        '[{"type": "function", "function": %s}, {"id": "x", "type": "function", "function": %s}]',
    ],
)
def test_a_list_of_calls_is_as_many_calls(written: str) -> None:
    both = written % (BERLIN, TOKYO)
    for answer in (parse(tagged(both)), parse(both), parse(f"```json\n{both}\n```"), parse(f"<tools>{both}</tools>")):
        assert (answer.text, answer.calls) == ("", [BERLIN_CALL, TOKYO_CALL])
        assert answer.repairs > 0
    after = parse(f"{tagged(both)}\nDone, [all].")
    assert (after.text, after.calls) == ("Done, [all].", [BERLIN_CALL, TOKYO_CALL])


@pytest.mark.parametrize(
    "prose",
    [
        "[a link](https://example.com), [1, 2]\n[{}]\n[",
        "[]",
        '[{"name": "Ada"}, {"name": "Bob"}]',
        '{"tool_calls": []}',
        '{"tool_calls": [1]}',
        '{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}',
        '{"type": "function", "function": {"name": "get_weather", "description": "x"}}',
        '[["get_weather"]]',
        "[[" + BERLIN + "]]",
    ],
)
def test_other_lists_and_descriptions_of_tools_are_prose(prose: str) -> None:
    assert parse(prose) == Parsed(prose, [], 0)


def test_after_a_call_a_comma_or_a_bracket_without_a_list_is_prose() -> None:
    assert parse(f"{tagged(BERLIN)}, and").text == ", and"
    assert parse(f"{tagged(BERLIN)}\n] }}").text == "] }"


@pytest.mark.parametrize(
    "cut",
    [
        '{"name": "write_file", "arguments": {"path": "a"}, "content": "b',
        '{"name": "write_file", "arguments": {"path": "a"}, "cont',
        '{"name": "write_file", "arguments": {"path": "a"},',
    ],
)
def test_a_call_cut_off_in_an_argument_behind_the_others_is_not_whole(cut: str) -> None:
    assert whole_calls(f"<tool_call>{cut}", ToolFormat.JSON) == [False]


def test_blank_arguments_that_may_have_been_cut_off_are_no_call() -> None:
    for cut in ('"', '" ', '"null', "nul"):
        written = f'<tool_call>{{"name": "get_time", "arguments": {cut}'
        assert parse(written) == Parsed(written, [], 0)


XY = {"path": "a.py", "content": "x = 1"}


@pytest.mark.parametrize(
    "written",
    [
        '{"path": "a.py", "content" "x = 1"}',
        '{"path" "a.py", "content": "x = 1"}',
        '{"path" = "a.py", "content": "x = 1"}',
        '{"path" => "a.py", "content" := "x = 1"}',
        '{path="a.py", content="x = 1"}',
        '{"path": "a.py" "content": "x = 1"}',
        '{"path": "a.py"; "content": "x = 1"}',
        '{"path": "a.py"\n content: "x = 1"}',
        '{"path": r"a.py", "content": f"x = 1"}',
        "{'path': b'a.py', 'content': u'x = 1'}",
        '{"path": "a.py", "content": r"""x = 1"""}',
        '{"path": `a.py`, "content": `x = 1`}',
        "{“path”: “a.py”, “content”: ‘x = 1’}",
        '{"path": "a.py", // where to\n "content": "x = 1"}',
        '{// first, "a": 1\n"path": "a.py", "content": "x = 1" # last\n}',
        '{"path" /* c */ : /* "d": 2, */ "a.py", /* e */ "content": "x = 1"}',
        '{"path": # where\n "a.py", # it is, "so":\n "content": "x = 1"}',
        '{"path": "a.py", "content": "x = 1",} // done\n',
        '[{"path": "a.py", "content": "x = 1"}]',
        '"[{\\"path\\": \\"a.py\\", \\"content\\": \\"x = 1\\"}]"',
        '{"path": "a.py"}, "content" "x = 1"',
        '{"path": "a.py"}} "content": "x = 1"',
    ],
)
def test_slips_between_names_and_values_make_no_other_arguments(written: str) -> None:
    answer = parse(writing(written))
    assert (answer.text, answer.arguments()) == ("", XY)
    assert answer.repairs > 0
    assert whole_calls(writing(written), ToolFormat.JSON) == [True]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('{"content": "print("hi", end="")"}', 'print("hi", end="")'),
        ('{"content": "d = {"a": 1, "b": [2]}", "path": "a"}', 'd = {"a": 1, "b": [2]}'),
        ('{"content": "f("a", "b")"}', 'f("a", "b")'),
        ('{"content": "a = "x" # y\n"}', 'a = "x" # y\n'),
        ('{"content": r"C:\\new \\d+"}', "C:\\new \\d+"),
        ('{"content": "https://x.org/#a // b"}', "https://x.org/#a // b"),
    ],
)
def test_quotes_and_marks_of_comments_in_a_text_are_its_own(written: str, meant: str) -> None:
    written = written.replace("C:\\\\new \\\\d+", "C:\\new \\d+")
    answer = parse(writing(written))
    assert answer.arguments()["content"] == meant
    assert whole_calls(writing(written), ToolFormat.JSON) == [True]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('{"lines": [1 2\n3]}', {"lines": [1, 2, 3]}),
        ('{"lines": [1, # one\n 2 /* two */]}', {"lines": [1, 2]}),
        ('{"options": {"a": true "b": [{"c": 1} {"d": 2}]}}', {"options": {"a": True, "b": [{"c": 1}, {"d": 2}]}}),
        ('{"options": {"names": ["a" "b"]}}', {"options": {"names": ["a", "b"]}}),
        ('{"path": /etc/hosts, "ratio": 1 // one\n}', {"path": "/etc/hosts", "ratio": 1}),
        ('{"mode": #fff}', {"mode": "#fff"}),
    ],
)
def test_values_that_lack_their_commas_or_quotes_are_mended(written: str, meant: dict[str, object]) -> None:
    answer = parse(writing(written))
    assert answer.arguments() == meant
    assert answer.repairs > 0
    assert whole_calls(writing(written), ToolFormat.JSON) == [True]


@pytest.mark.parametrize(
    "written",
    [
        '{"path", "a.py", "content", "x = 1"}',
        '{"path": "a.py", "content"}',
        '{"path": "a.py", "content": }',
        '{"path": "a.py", "junk", "content": "x = 1"}',
        '{"path": "a.py", "content": x = 1, y = 2}',
        '{"path": http://x.org, "content": "x"}',
        '{"path": <b>a.py</b>, "content": "x"}',
        '{"path": "a.py"}, {"content": "x = 1"}',
        '{"path": "a.py", // to "content": "x = 1"}}',
        '{"path": "a.py", "content": "x", "path" = "b.py"}',
        '{"path": "a.py"}, "path": "b.py"',
        '{"path": "a.py" /* "content": "x = 1"}',
        '{"path": "a.py", "x=1;y": 2, "content": \'x\'}',
    ],
)
def test_where_it_can_not_be_told_what_was_meant_the_call_is_not_whole_and_all_is_kept(written: str) -> None:
    answer = f"First.\n{writing(written)}\n{tagged(BERLIN)}"
    assert whole_calls(answer, ToolFormat.JSON) == [False, True]
    events, _ = events_of([answer], ToolFormat.JSON)
    kept = next(event.written for event in events if isinstance(event, CallEnded))
    assert kept is not None
    assert f"{kept.strip()}\n</tool_call>" == writing(written)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["First."]


@pytest.mark.parametrize(
    "arguments",
    [
        '["a.py", "x"]',
        '[{"path": "a"}, {"content": "x"}]',
        '[{"name": "path", "value": "a"}]',
        '"[1]"',
        '"{\\"path\\"}"',
    ],
)
def test_a_list_that_is_not_the_arguments_stays_text(arguments: str) -> None:
    assert parse(writing(arguments)) == Parsed(writing(arguments), [], 0)


@pytest.mark.parametrize(
    "written",
    [
        '{"write_file": OBJECT}',
        '{"write_file": TEXT}',
        '{"write_file": [OBJECT]}',
        '{"write_file": {"arguments": OBJECT}}',
        '{"functions.write_file": {"input": OBJECT}}',
        '[{"write_file": OBJECT}]',
        '{"function_call": {"name": "write_file", "arguments": OBJECT}}',
        '{"name": "functions.write_file", "arguments": OBJECT}',
        '{"name": "functions:write_file", "arguments": OBJECT}',
        '{"name": "default_api.write_file", "parameters": OBJECT}',
        '{"tool": "tools/write_file", "args": OBJECT}',
        '{"name": "write_file()", "arguments": OBJECT}',
        '{"name" "write_file" "arguments" OBJECT}',
        '{name = "write_file", arguments = OBJECT}',
        '{"name": "write_file", // which\n "arguments": OBJECT /* all */}',
    ],
)
def test_the_tool_is_told_by_whatever_names_it(written: str) -> None:
    written = tagged(written.replace("OBJECT", ARGUMENTS).replace("TEXT", json.dumps(ARGUMENTS)))
    answer = parse(written)
    assert (answer.text, answer.calls) == ("", [FILE])
    assert answer.repairs > 0
    assert whole_calls(written, ToolFormat.JSON) == [True]


def test_a_tool_that_has_such_a_name_is_that_one_and_an_unknown_name_stays() -> None:
    tools = [Tool("write"), Tool("fs.write"), Tool("functions.fs.read")]
    for written, name in [
        ("functions.write", "write"),
        ("functions.fs.write", "fs.write"),
        ("fs.write", "fs.write"),
        ("functions.fs.read", "functions.fs.read"),
        ("functions.fly", "functions.fly"),
    ]:
        answer = parse_answer(tagged(f'{{"name": "{written}", "arguments": {{}}}}'), ToolFormat.JSON, tools)
        assert answer == Parsed("", [(name, "{}")], int(name != written))


def test_right_json_may_name_an_argument_that_the_tool_does_not_have() -> None:
    written = writing('{"path": "a", "content": "b", "encoding": "utf-8"}')
    assert parse(written).arguments() == {"path": "a", "content": "b", "encoding": "utf-8"}
    assert whole_calls(written, ToolFormat.JSON) == [True]


@pytest.mark.parametrize("left", ["<tool_call>/\n", "<tool_call>>\n", "</tool_call>\n<tool_call>\n", "<tool_call/>\n"])
@pytest.mark.parametrize(
    "end", ["\n</tool_call>/", "\n/\n</tool_call>", "\n</tool_call>>", "\n</tool_call", "\n</tool_call>"]
)
def test_what_is_left_of_tags_beside_a_call_is_no_prose(left: str, end: str) -> None:
    answer = parse(f"{left}{BERLIN}{end}")
    assert (answer.text, answer.calls) == ("", [BERLIN_CALL])
    assert answer.repairs > 0
