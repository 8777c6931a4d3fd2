"""Prose: given out at once and unchanged, whatever it mentions."""

from __future__ import annotations

import pytest
from tests.unit.prompt.tools.answers import CALL_ID, TOOLS, Parsed, parse

from quern.events import TextDelta
from quern.grammar.tool_calls import ToolFormat
from quern.prompt.tools.answer_parser import answer_parser

FORMATS = list(ToolFormat)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "prose",
    [
        "",
        " \n ",
        "\n你好,世界 😀\n\n",
        "the `<tool_call>` tag is followed by `</tool_call>`.",
        "<tool_call> is a tag\n</tool_call>\n",
        "if a < b: x = {1: '<function=f>'}",
        "<tools>\n<tool>\nnone",
        "```python\nprint({})\n```\n```json\n{}\n```",
        "```\n```\n",
        "````\n```json\n{\n",
        "a ```json\n```",
        "<<tool_call>>\n<tool_<tool_call",
        '{\n  "name": "demo",\n  "arguments" }\n}',
        "{{{\n}}}",
        "<function>\n<function=>",
        '{"name": "' + "x" * 300 + '", "arguments": {}}',
        "<function=" + "x" * 300 + ">\n</function>",
    ],
)
def test_it_comes_out_unchanged(prose: str, form: ToolFormat) -> None:
    assert parse(prose, form) == Parsed(prose, [], 0)
    assert parse(prose, form, opened=True) == Parsed(prose, [], 0)


@pytest.mark.parametrize("form", FORMATS)
def test_a_mention_of_the_tag_streams_on_once_it_can_be_no_call(form: ToolFormat) -> None:
    parser = answer_parser(form, TOOLS, CALL_ID)
    assert parser.push("The `<tool") == [TextDelta("The `")]
    assert parser.push("_call>") == []
    assert parser.push("`") == [TextDelta("<tool_call>`")]
    assert parser.push(" tag") == [TextDelta(" tag")]
    assert parser.finish() == []


@pytest.mark.parametrize("form", FORMATS)
def test_only_the_space_at_its_end_waits_for_what_follows(form: ToolFormat) -> None:
    parser = answer_parser(form, TOOLS, CALL_ID)
    assert parser.push("Hello \n") == [TextDelta("Hello")]
    assert parser.push("\n") == []
    assert parser.push("world. ") == [TextDelta(" \n\nworld.")]
    assert parser.finish() == [TextDelta(" ")]


def test_a_code_block_waits_no_longer_than_it_may_hold_a_call() -> None:
    parser = answer_parser(ToolFormat.JSON, TOOLS, CALL_ID)
    assert parser.push("```json\n{\n  ") == []
    assert parser.push('"debug"') == []
    assert parser.push(":") == [TextDelta('```json\n{\n  "debug":')]


CALLS = {
    ToolFormat.JSON: '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Berlin"}}\n</tool_call>',
    ToolFormat.XML: "<tool_call>\n<function=get_weather>\n<parameter=city>\nBerlin\n</parameter>\n</function>\n"
    "</tool_call>",
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "around",
    [
        "Write `%s` for it.",
        "`%s`",
        "Both `x` and `<tool_call>` begin `%s`.\n",
        "So:\n```xml\nFor example:\n%s\n```\nThat is all.",
        "```\n# like this\n\n%s\n\n%s\n```\n",
        "```markdown\nIt is\n</function>\n%s\n</tool_call>\n```",
    ],
)
def test_a_call_that_is_quoted_as_code_is_prose(around: str, form: ToolFormat) -> None:
    prose = around.replace("%s", CALLS[form])
    assert parse(prose, form) == Parsed(prose, [], 0)


@pytest.mark.parametrize("form", FORMATS)
def test_a_code_block_with_a_call_of_an_unknown_tool_is_prose(form: ToolFormat) -> None:
    prose = f"The format is\n```xml\n{CALLS[form].replace('get_weather', 'NAME')}\n```\n"
    assert parse(prose, form) == Parsed(prose, [], 0)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "before", ["Run `ls.", "Run `ls` and `cat.\n", "```python\nx = 1", "```sh\nls\n```", "It's 5` long"]
)
def test_code_that_is_not_closed_behind_a_call_quotes_none(before: str, form: ToolFormat) -> None:
    answer = parse(f"{before}\n{CALLS[form]}", form)
    assert (answer.text, answer.calls) == (before.strip(), [("get_weather", '{"city": "Berlin"}')])


@pytest.mark.parametrize("form", FORMATS)
def test_tags_in_code_after_a_call_are_prose(form: ToolFormat) -> None:
    prose = "The ends are `</tool_call>`, `</function>` and\n```\n</function>\n</tool_call>\n</parameter>\n```\n"
    assert parse(f"{CALLS[form]}\n{prose}", form).text == prose
