"""Calls in Qwen3-Coder's format: right ones, and each slip that is mended."""

from __future__ import annotations

import json

import pytest
from tests.unit.prompt.tools.answers import CALL_ID, CODE, TOOLS, Parsed, events_of, whole_calls
from tests.unit.prompt.tools.answers import parse as parse_answer

from quern.events import ArgumentsDelta, CallEnded, CallStarted, TextDelta
from quern.grammar.tool_calls import ToolFormat
from quern.prompt.tools.answer_parser import answer_parser
from quern.types import Tool

BERLIN = "<function=get_weather>\n<parameter=city>\nBerlin\n</parameter>\n</function>"
TOKYO = "<function=get_weather>\n<parameter=city>\n东京 😀\n</parameter>\n</function>"
BERLIN_CALL = ("get_weather", '{"city": "Berlin"}')
TOKYO_CALL = ("get_weather", '{"city": "东京 😀"}')


def parse(answer: str, *, opened: bool = False) -> Parsed:
    return parse_answer(answer, ToolFormat.XML, opened=opened)


def tagged(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


def function(name: str, *parameters: str) -> str:
    return "".join([f"<function={name}>\n", *(f"{parameter}\n" for parameter in parameters), "</function>"])


def parameter(name: str, value: str) -> str:
    return f"<parameter={name}>\n{value}\n</parameter>"


def writing(name: str, value: str) -> str:
    return tagged(function("write_file", parameter(name, value)))


def test_a_call_between_its_tags_needs_no_repair() -> None:
    assert parse(tagged(BERLIN)) == Parsed("", [BERLIN_CALL], 0)


def test_prose_and_calls_come_in_order_and_the_white_space_between_them_goes() -> None:
    events, repairs = events_of([f"我看看。\n{tagged(BERLIN)}\n{tagged(TOKYO)}\n\n完成 "], ToolFormat.XML)
    assert repairs == 0
    assert events == [
        TextDelta("我看看。"),
        CallStarted(0, "call_0", "get_weather"),
        ArgumentsDelta(0, '{"city": "Berlin"}'),
        CallEnded(0),
        CallStarted(1, "call_1", "get_weather"),
        ArgumentsDelta(1, '{"city": "东京 😀"}'),
        CallEnded(1),
        TextDelta("完成 "),
    ]


def test_strings_are_told_while_they_are_written_and_other_values_when_they_are_complete() -> None:
    parser = answer_parser(ToolFormat.XML, TOOLS, CALL_ID)
    assert parser.push("<tool_call>\n<function=write_file>\n<para") == []
    assert parser.push("meter=") == [CallStarted(0, "call_0", "write_file")]
    assert parser.push("content>\n") == [ArgumentsDelta(0, '{"content": "')]
    assert parser.push('say "中"\n') == [ArgumentsDelta(0, 'say \\"中\\"')]
    assert parser.push("</parameter") == []
    assert parser.push(" x>") == [ArgumentsDelta(0, "\\n</parameter x>")]
    assert parser.push("\n</parameter>\n<parameter=lines>\n[1, ") == [ArgumentsDelta(0, '", "lines": ')]
    assert parser.push("2]\n</parameter>\n</function>") == [ArgumentsDelta(0, "[1, 2]")]
    assert parser.push("\n</tool_call>") == [ArgumentsDelta(0, "}"), CallEnded(0)]
    assert parser.finish() == []
    assert parser.repairs == 0


@pytest.mark.parametrize(
    "value",
    [
        CODE,
        "",
        "\n",
        "\n\n  indented\n\n",
        '{"a": "}"}',
        "<html>\n<a href='x'>\n</html>",
        "x</parameter>\ny",
        "</parameter>\n</parameter>\n</parameters>",
        "</parameter></function",
        "</function>\nmore",
        "</function>\n</tool_call>\nmore",
        "</function>\n</tool_call>\n</tool_call>",
        "<tool_call>\n<function=f>\n",
        "<parameter=x>\n1",
        "null",
        "3",
        "\\n \\u4e2d \t \x01 \u2028",
    ],
)
def test_a_string_arrives_as_it_is(value: str) -> None:
    answer = parse(tagged(function("write_file", parameter("path", "a"), parameter("content", value))))
    assert answer.arguments() == {"path": "a", "content": value}
    assert answer.repairs == 0


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("mode", "null", None),
        ("mode", "nul", "nul"),
        ("mode", "nullable", "nullable"),
        ("mode", "", ""),
        ("mode", "w", "w"),
        ("lines", "[1, 2]", [1, 2]),
        ("lines", "[\n  1,\n  2\n]", [1, 2]),
        ("options", '{"a": {"b": "</parameter> 中"}}', {"a": {"b": "</parameter> 中"}}),
        ("ratio", "-1.5e3", -1500.0),
        ("ratio", "2", 2),
        ("unknown", "3", "3"),
    ],
)
def test_text_is_read_as_the_type_that_the_schema_wants(name: str, written: str, meant: object) -> None:
    answer = parse(writing(name, written))
    assert (answer.arguments(), answer.repairs) == ({name: meant}, 0)


@pytest.mark.parametrize(
    ("name", "written", "meant", "repairs"),
    [
        ("options", "{'a': None, 'b': True}", {"a": None, "b": True}, 1),
        ("options", '{"a": "x\ny",}', {"a": "x\ny"}, 1),
        ("options", '"{}"', {}, 1),
        ("lines", "[1, 2,]", [1, 2], 1),
        ("ratio", "0.5,", "0.5,", 0),
        ("ratio", '"0.5"', 0.5, 1),
        ("ratio", "half", "half", 0),
        ("options", "{1: 2}", {"1": 2}, 1),
        ("options", "none of them", "none of them", 0),
        ("options", "{", "{", 0),
        ("options", "", "", 0),
    ],
)
def test_text_that_is_not_quite_json_is_mended_or_stays_text(
    name: str, written: str, meant: object, repairs: int
) -> None:
    answer = parse(writing(name, written))
    assert (answer.arguments(), answer.repairs) == ({name: meant}, repairs)


@pytest.mark.parametrize(
    ("name", "written", "meant", "repairs"),
    [
        ("days", "3", 3, 0),
        ("days", "3.0", 3, 1),
        ("days", "3.5", "3.5", 0),
        ("days", "+3", 3, 1),
        ("hourly", "true", True, 0),
        ("hourly", "True", True, 1),
        ("hourly", "yes", True, 1),
        ("hourly", "1", "1", 0),
        ("unit", "celsius", "celsius", 0),
    ],
)
def test_numbers_and_truth_values_are_read(name: str, written: str, meant: object, repairs: int) -> None:
    answer = parse(tagged(function("get_weather", parameter(name, written))))
    assert (answer.arguments(), answer.repairs) == ({name: meant}, repairs)


def test_a_value_without_lines_of_its_own_is_a_slip() -> None:
    call = tagged(function("get_weather", "<parameter=city>Berlin</parameter>", "<parameter=days> 3\n</parameter>"))
    assert parse(call) == Parsed("", [("get_weather", '{"city": "Berlin", "days": 3}')], 2)


def test_one_line_break_is_the_formats_and_the_others_are_the_values() -> None:
    answer = parse(writing("content", "\nx\n\n"))
    assert (answer.arguments(), answer.repairs) == ({"content": "\nx\n\n"}, 0)


def test_the_space_around_tags_means_nothing() -> None:
    call = "\n <tool_call><function=get_weather> \n\n<parameter=city>\nBerlin\n</parameter></function></tool_call>\n"
    assert parse(call) == Parsed("", [BERLIN_CALL], 0)


def test_a_call_of_an_unknown_tool_and_without_arguments_is_a_call() -> None:
    assert parse(tagged(function("fly"))) == Parsed("", [("fly", "{}")], 0)
    assert parse(tagged("<function=fly></function>")) == Parsed("", [("fly", "{}")], 0)


def test_the_opening_tag_may_be_missing_at_a_lines_start() -> None:
    assert parse(BERLIN) == Parsed("", [BERLIN_CALL], 1)
    assert parse(f"我看看。\n{BERLIN}\n</tool_call>") == Parsed("我看看。", [BERLIN_CALL], 1)
    assert parse(f"```xml\n{BERLIN}\n```") == Parsed("", [BERLIN_CALL], 1)
    assert parse(f"Write {BERLIN}") == Parsed(f"Write {BERLIN}", [], 0)


def test_two_calls_in_one_pair_of_tags_are_two_calls() -> None:
    assert parse(tagged(f"{BERLIN}\n{TOKYO}")) == Parsed("", [BERLIN_CALL, TOKYO_CALL], 1)


def test_doubled_opening_tags_open_one_call() -> None:
    assert parse(f"<tool_call>\n<tool_call>\n{BERLIN}\n</tool_call>") == Parsed("", [BERLIN_CALL], 1)


def test_missing_closing_tags_are_slips() -> None:
    assert parse(f"<tool_call>\n{BERLIN}") == Parsed("", [BERLIN_CALL], 1)
    assert parse(tagged(BERLIN.replace("\n</function>", ""))) == Parsed("", [BERLIN_CALL], 1)
    assert parse(f"<tool_call>\n{BERLIN}\n{tagged(TOKYO)}") == Parsed("", [BERLIN_CALL, TOKYO_CALL], 1)
    assert parse(tagged(BERLIN.replace("\n</parameter>", ""))) == Parsed("", [BERLIN_CALL], 1)
    unclosed = "<tool_call>\n" + BERLIN.replace("\n</parameter>", "")
    assert parse(f"{unclosed}\n{tagged(TOKYO)}") == Parsed("", [BERLIN_CALL, TOKYO_CALL], 2)
    assert parse(unclosed) == Parsed("", [BERLIN_CALL], 1)


@pytest.mark.parametrize(
    ("begun", "meant", "repairs"),
    [
        ("content>\ndef f():\n    ret", '{"content": "def f():\\n    ret"}', 1),
        ("content>\nx\n</param", '{"content": "x"}', 1),
        ("content>\nx\n</parameter>", '{"content": "x"}', 1),
        ("content>\nx\n</parameter>\n</fun", '{"content": "x"}', 1),
        ("content>\n", '{"content": ""}', 1),
        ("cont", '{"cont": ""}', 1),
        ("lines>\n[1, 2", '{"lines": "[1, 2"}', 1),
        ("ratio>\n12", '{"ratio": 12}', 1),
        ("mode>\nnul", '{"mode": "nul"}', 1),
    ],
)
def test_a_call_that_is_cut_off_is_completed_by_one_repair(begun: str, meant: str, repairs: int) -> None:
    answer = parse(f"<tool_call>\n<function=write_file>\n<parameter={begun}")
    assert answer == Parsed("", [("write_file", meant)], repairs)


@pytest.mark.parametrize(
    "cut",
    [
        "content>\nx",
        "content>\nx\n</parameter>",
        "content>\nx\n</parameter>\n</func",
        'content>\nx\n</parameter>\n<parameter=lines>\n"[1]"\n</parameter>',
        "cont",
    ],
)
def test_a_call_whose_arguments_the_answers_end_cut_off_is_not_whole(cut: str) -> None:
    written = f"{tagged(BERLIN)}\n<tool_call>\n<function=write_file>\n<parameter={cut}"
    assert whole_calls(written, ToolFormat.XML) == [True, False]


@pytest.mark.parametrize(
    "rest",
    [
        "content>\nx\n</parameter>\n</function>",
        "content>\nx\n</parameter>\n</function>\n</tool",
        "content>\nx\n</parameter>\n</tool_call>",
        "content>\nx\n</function>",
        "content\nx</parameter></function>",
    ],
)
def test_a_call_whose_arguments_the_model_completed_is_whole_even_where_more_is_missing(rest: str) -> None:
    assert whole_calls(f"<tool_call>\n<function=write_file>\n<parameter={rest}", ToolFormat.XML) == [True]


@pytest.mark.parametrize("begun", ["<tool_", "<tool_call>\n", "<tool_call>\n<function=get_we", "<function=f>\n<para"])
def test_a_beginning_that_is_cut_off_before_its_arguments_is_prose(begun: str) -> None:
    assert parse(f"好的\n{begun}") == Parsed(f"好的\n{begun}", [], 0)


@pytest.mark.parametrize(
    "content", ["Berlin", "<function=>", "<function=f", "<function=f> does it", "<function=a\nb>", "<func>", ""]
)
def test_tags_around_what_is_no_call_are_prose_with_it(content: str) -> None:
    assert parse(f"So:\n{tagged(content)}\n\n") == Parsed(f"So:\n{tagged(content)}\n\n", [], 0)


def test_a_parameters_name_without_an_end_ends_with_its_line() -> None:
    call = tagged(function("get_weather", "<parameter=city\nBerlin\n</parameter>"))
    assert parse(call) == Parsed("", [BERLIN_CALL], 1)


def test_a_demanded_call_begins_after_the_opening_and_needs_no_closing() -> None:
    assert parse(BERLIN, opened=True) == Parsed("", [BERLIN_CALL], 0)
    assert parse(f"{BERLIN}\n</tool_call>", opened=True) == Parsed("", [BERLIN_CALL], 0)
    assert parse("我不能。", opened=True) == Parsed("我不能。", [], 0)


def test_the_other_format_between_the_tags_is_a_slip() -> None:
    other = '{"name": "get_weather", "arguments": {"city": "Berlin"}}'
    assert parse(tagged(other)) == Parsed("", [BERLIN_CALL], 1)
    assert parse(other) == Parsed(other, [], 0)


NOTE = ("write_file", '{"path": "a.py", "content": "x = 1"}')
RIGHT = function("write_file", parameter("path", "a.py"), parameter("content", "x = 1"))


@pytest.mark.parametrize(
    "written",
    [
        RIGHT.replace("a.py\n</parameter>\n", "a.py\n"),
        RIGHT.replace("a.py\n</parameter>\n", "a.py\n\n").replace("\n\n<parameter", "\n<parameter"),
        RIGHT.replace("\na.py\n</parameter>\n", "a.py"),
        RIGHT.replace("x = 1\n</parameter>", "x = 1\n</content>"),
        RIGHT.replace("a.py\n</parameter>", "a.py\n</path>"),
        RIGHT.replace("a.py\n</parameter>", "a.py</path>").replace("<parameter=path>\n", "<parameter=path>"),
        RIGHT.replace("</parameter>", "</parameter/>"),
        RIGHT.replace("x = 1\n</parameter>", "x = 1\n</parameter=content>"),
        RIGHT.replace("\n", "\r\n"),
        RIGHT.replace("=path>", '="path">').replace("=content>", "='content'>"),
        RIGHT.replace("<function=write_file>", "<function='write_file'>"),
        RIGHT.replace("<function=write_file>", '<function name="write_file">'),
        RIGHT.replace("<parameter=path>", '<parameter name="path">'),
        RIGHT.replace("=path>", "=path=>"),
        RIGHT.replace("=path>", "=path/>").replace("=write_file>", '="write_file">'),
        RIGHT.replace("=path>", "=path"),
        RIGHT.replace("\n</parameter>\n</function>", ""),
        RIGHT.replace("</function>", "</function>\n</function>"),
    ],
)
def test_slips_of_the_tags_are_mended_and_counted(written: str) -> None:
    answer = parse(f"Now.\n{tagged(written)}\nDone.")
    if "Done" in answer.text:
        assert (answer.text, answer.calls) == ("Now.Done.", [NOTE])
        assert answer.repairs > 0
    alone = parse(tagged(written))
    assert (alone.text, alone.calls) == ("", [NOTE])
    assert alone.repairs > 0
    assert whole_calls(tagged(written), ToolFormat.XML) == [True]


def test_line_breaks_of_the_value_are_its_own() -> None:
    answer = parse(tagged(RIGHT.replace("x = 1", "x = 1\r\ny = 2\r\n")))
    assert (answer.arguments()["content"], answer.repairs) == ("x = 1\r\ny = 2\r\n", 0)
    assert parse(writing("content", "x\ry").replace("\ry", "\ry")).arguments() == {"content": "x\ry"}


QUOTED = [
    tagged(BERLIN),
    f"Example:\n{tagged(BERLIN)}\nThat is all.",
    f"{tagged(BERLIN)}\n{tagged(TOKYO)}\n",
    f"```xml\n{BERLIN}\n```\n",
    tagged(function("fly")),
    f"{tagged(function('fly'))}\nmore",
    tagged(writing("content", tagged(BERLIN))),
    "a call ends with\n</parameter>\n</function>\n</tool_call>\nand nothing else.",
    "</parameter>\n</function>\n</tool_call>",
    "x</parameter></function> y",
    "the end:\n</parameter>\n<parameter=fake>\n1",
    "</parameter>\n<parameter=path>\nb.py",
    "</parameter>\n<parameter=content>\nb.py",
    "<parameter=fake>\n1\n</parameter>\n<parameter=other>\n2",
    "<content>\nx\n</content>\n",
    "in <path>a</path>",
    "<parameter=NAME>",
    "re.compile('<function=([^>]+)>')",
]


@pytest.mark.parametrize("value", QUOTED)
def test_tags_in_a_text_are_a_part_of_it(value: str) -> None:
    written = function("write_file", parameter("path", "a.md"), parameter("content", value))
    for answer in (tagged(written), f"{tagged(written)}\n{tagged(BERLIN)}", f"Now.\n{tagged(written)}\nDone."):
        (_, arguments), *others = parse(answer).calls
        assert json.loads(arguments) == {"path": "a.md", "content": value}
        assert others == ([BERLIN_CALL] if answer.endswith(tagged(BERLIN)) else [])
        assert parse(answer).text == ("Now.Done." if answer.endswith("Done.") else "")
        assert parse(answer).repairs == 0
        assert all(whole_calls(answer, ToolFormat.XML))


@pytest.mark.parametrize("value", QUOTED)
def test_wherever_a_text_with_tags_is_cut_its_call_is_whole_only_with_all_of_it(value: str) -> None:
    written = tagged(function("write_file", parameter("path", "a.md"), parameter("content", value)))
    whole: set[str] = set()
    for end in range(len(written)):
        events, _ = events_of([written[:end]], ToolFormat.XML)
        if any(isinstance(event, CallEnded) and event.whole for event in events):
            whole.add("".join(event.fragment for event in events if isinstance(event, ArgumentsDelta)))
    told = [json.loads(arguments)["content"] for arguments in whole]
    assert all(content == value or (value + "\n</parameter>\n</function>").startswith(content) for content in told)
    assert value in told


def test_a_parameter_that_the_tool_does_not_have_ends_no_text_but_other_values() -> None:
    quoted = tagged(function("get_weather", parameter("city", "a"), parameter("country", "b")))
    assert parse(quoted).arguments() == {"city": "a\n</parameter>\n<parameter=country>\nb"}
    after_a_number = tagged(function("get_weather", parameter("days", "3"), parameter("country", "b")))
    assert parse(after_a_number).arguments() == {"days": 3, "country": "b"}
    first = tagged(function("get_weather", parameter("town", "a"), parameter("days", "3")))
    assert parse(first).arguments() == {"town": "a", "days": 3}


def test_of_a_tool_that_takes_any_arguments_all_are_taken() -> None:
    tool = Tool("run", "", {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True})
    written = function("run", parameter("a", "1"), parameter("b", "2"))
    for tools in ([tool], []):
        answer = parse_answer(tagged(written), ToolFormat.XML, tools)
        assert (answer.arguments(), answer.repairs) == ({"a": "1", "b": "2"}, 0)
        mended = parse_answer(tagged(written.replace("1\n</parameter>", "1")), ToolFormat.XML, tools)
        assert (mended.arguments(), mended.repairs) == ({"a": "1", "b": "2"}, 1)


@pytest.mark.parametrize("rest", ["</function>", "</tool_call>", "</parameter>\n", "\n</function>\n</tool_call>"])
def test_what_is_left_of_a_calls_tags_is_no_prose(rest: str) -> None:
    for between in ("", "\n", "\nDone.\n"):
        events, repairs = events_of([f"{tagged(BERLIN)}{between}{rest}"], ToolFormat.XML)
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert "<" not in text
        assert repairs > 0 or not all(event.whole for event in events if isinstance(event, CallEnded))


@pytest.mark.parametrize(
    "between",
    [
        "\n</parameter>\n\n",
        "\n</parameter>\n>\n",
        "\n</parameter>\n<parameter\n",
        "\n</parameter>\n<param=content>\n",
        "\n</parameter>\n<parameter=path>\n",
    ],
)
def test_a_value_that_swallowed_another_argument_is_counted(between: str) -> None:
    parsed = parse(tagged(f"<function=write_file>\n<parameter=path>\na.py{between}x = 1\n</parameter>\n</function>"))
    assert parsed.arguments() == {"path": f"a.py{between}x = 1"}
    assert parsed.repairs == 1


def test_a_value_that_quotes_a_parameters_end_is_right_where_no_argument_is_missing() -> None:
    quoted = "a\n</parameter>\n>\nb"
    call = function("write_file", parameter("path", "a.py"), parameter("content", quoted))
    assert parse(tagged(call)) == Parsed("", [("write_file", json.dumps({"path": "a.py", "content": quoted}))], 0)


@pytest.mark.parametrize(
    "written",
    [
        f"<tool_call>/\n{RIGHT}\n</tool_call>",
        f"<tool_call>/{RIGHT}\n</tool_call>",
        f"<tool_call/>\n{RIGHT}\n</tool_call>",
        f"<tool_call>\n</function>\n{RIGHT}\n</tool_call>",
        f"<tool_call>\n<parameter>\n{RIGHT}\n</tool_call>",
        f"</parameter>\n</function>\n</tool_call>\n{tagged(RIGHT)}",
        f"<tool_call>\n{RIGHT}\n</function><parameter\n</tool_call>",
        f"<tool_call>\n{RIGHT}<parameter\n</tool_call>",
        f"<tool_call>\n{RIGHT}\n<parameter=\n</tool_call>",
        f"<tool_call>\n{RIGHT}/\n</tool_call>",
        f"<tool_call>\n{RIGHT}>\n</tool_call>>",
        f"<tool_call>\n{RIGHT}\n</function\n</tool_call",
        f"{tagged(RIGHT)}/\n",
        tagged(RIGHT.replace("=write_file>", "=functions.write_file>")),
        tagged(RIGHT.replace("=write_file>", "=default_api:write_file>")),
        tagged(RIGHT.replace("</parameter>\n<", "</parameter>\n</function>\n<")),
        tagged(RIGHT.replace("write_file>\n", "write_file>\n</function>\n")),
    ],
)
def test_leftovers_of_tags_and_functions_that_end_too_soon_are_mended(written: str) -> None:
    answer = parse(written)
    assert (answer.text, answer.calls) == ("", [NOTE])
    assert answer.repairs > 0
    assert whole_calls(written, ToolFormat.XML) == [True]


@pytest.mark.parametrize(
    ("between", "text"),
    [
        ("\nNow the other.\n</parameter>\n", "Now the other."),
        ("\nNow </parameter>\n", "Now"),
        ("\n</parameter>\n", ""),
        ("\nNow:</function>\n<tool_call>\n", "Now:"),
    ],
)
def test_a_stray_end_between_two_calls_is_no_prose(between: str, text: str) -> None:
    answer = parse(f"{tagged(RIGHT)}{between}{BERLIN}\n</tool_call>")
    assert (answer.text, answer.calls) == (text, [NOTE, BERLIN_CALL])
    assert answer.repairs > 0


def test_a_call_that_stays_prose_keeps_its_tags() -> None:
    prose = f"So </parameter> I write {BERLIN}\n</tool_call>"
    assert parse(f"{tagged(RIGHT)}\n{prose}") == Parsed(prose, [NOTE], 0)


@pytest.mark.parametrize(
    "function_and_more",
    [
        "<function=write_file>\n</function>\na.py\nx = 1\n",
        f"<function=write_file>\n</function>\na.py\n</parameter>\n{parameter('content', 'x')}\n</function>\n",
        "<function=write_file>\n</function>\n<path>a.py</path>\n",
        f"<function=write_file>\n{parameter('path', 'a')}\n<param=content>\nx = 1\n</parameter>\n</function>\n",
        "<function=write_file>\n<parameter=ratio>\n1\n</parameter>\n<parameter=ratio>\n2\n</parameter>\n</function>\n",
        "<function=write_file>\n<parameter=a.py, content>\nx\n</parameter>\n</function>\n",
        "<function=write_file>\n<parameter=path>\na\n</parameter>\nb\n<parameter=content>\nx\n</parameter>\n</function>\n",
    ],
)
def test_where_it_can_not_be_told_what_was_meant_the_call_is_not_whole_and_all_is_kept(function_and_more: str) -> None:
    events, repairs = events_of([f"<tool_call>\n{function_and_more}</tool_call>\n{tagged(BERLIN)}"], ToolFormat.XML)
    broken, right = [event for event in events if isinstance(event, CallEnded)]
    assert (broken.whole, right.whole, repairs > 0) == (False, True, True)
    assert broken.written == f"<tool_call>\n{function_and_more}"
    assert not [event for event in events if isinstance(event, TextDelta)]


def test_a_function_of_which_nothing_is_missing_may_be_empty_and_text_may_follow() -> None:
    assert parse("<tool_call>\n<function=get_time>\n</function>\nNow.") == Parsed("Now.", [("get_time", "{}")], 1)
    assert whole_calls(tagged("<function=write_file>\n</function>"), ToolFormat.XML) == [True]
