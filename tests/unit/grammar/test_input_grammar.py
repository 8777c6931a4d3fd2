"""Grammars of custom tools' texts: what the calls may say whose argument such a text is, in both formats of calls."""

from __future__ import annotations

import json
from pathlib import Path

import llguidance
import pytest

from quern.errors import InvalidRequest
from quern.grammar.kinds import Grammar, LarkGrammar
from quern.grammar.tool_calls import TAGS, ToolFormat, call_inputs, demanded_call
from quern.types import GrammarSyntax, InputGrammar, Tool, ToolKind

BYTES = llguidance.LLTokenizer("byte")
PATCH_GRAMMAR = (Path(__file__).parents[2] / "data" / "codex" / "apply_patch.lark").read_text()
PATCH = '*** Begin Patch\n*** Update File: a "b" \\ ä.py\n@@ def f():\n-    x = "\\n"\n+\ty = 1\n*** End Patch\n'
PARAMETERS = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
FORMATS = list(ToolFormat)

ARITHMETIC = """
?start: sum   // the whole
?sum: product | sum ("+"|"-") product -> add
product: atom (_TIMES atom)*
atom: INT | "(" sum ")" | ESCAPED_STRING
_TIMES.2: "*" | "times"i
%import common.INT
%import common (ESCAPED_STRING, WS)
%ignore WS
"""
LINES = 'start: line+\nline: "- " /.+?/ _NL\n_NL: /\\r?\\n/\n'
COUNTED = 'start: LETTER ~ 2..3 DIGIT{2} ";"?\nLETTER: "a".."c"\nDIGIT: " ".."~"\n'


def custom(definition: str, syntax: GrammarSyntax = GrammarSyntax.LARK, name: str = "t") -> Tool:
    grammar = InputGrammar(syntax, definition)
    return Tool(name, "", PARAMETERS, kind=ToolKind.CUSTOM, input_grammar=grammar)


def regex(definition: str) -> Tool:
    return custom(definition, GrammarSyntax.REGEX)


def call(format_: ToolFormat, text: str, name: str = "t") -> str:
    """A call as a model writes it after the opening tag."""
    if format_ is ToolFormat.JSON:
        return json.dumps({"name": name, "arguments": {"input": text}}, ensure_ascii=False)
    return f"<function={name}>\n<parameter=input>\n{text}\n</parameter>\n</function>"


def allowed(grammar: Grammar, text: str) -> bool:
    """Whether the whole text may be an answer."""
    assert isinstance(grammar, LarkGrammar)
    lark = grammar.lark.replace(TAGS, '"<t>" | "</t>"')  # this tokenizer has no tags
    assert llguidance.LLMatcher.validate_grammar(lark, BYTES) == ""
    matcher = llguidance.LLMatcher(BYTES, lark, log_level=0)
    ids = BYTES.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


CASES = [
    (
        custom(PATCH_GRAMMAR),
        [PATCH, "*** Begin Patch\n*** Add File: a\n+x\n+\n*** End Patch"],
        ["*** Begin Patch\nx", ""],
    ),
    (custom(ARITHMETIC), ['(1 + 2)*3 TIMES "a\\"b"', "1 -\n\t2"], ["1 +", "1 2", "+"]),
    (custom(LINES), ["- a\n- b\r\n"], ["- a", "a\n", "- \n"]),
    (custom(COUNTED), ['ab" ;', "abc\\~"], ["a11", "ab1", "abcd12"]),
    (custom('start: "a\\n\\"b\\"" | "über"i\n'), ['a\n"b"', "ÜBER"], ["a", "a b"]),
    (regex(r"^(?P<month>January|May)\s+\d{1,2}(?:st|nd)?$"), ["May 1st", "January\n22"], ["Mai 1", "May", "May 111"]),
    (regex(r'["\\a-c]+/\w*?'), ['"\\/ä1', "a/"], ["d/", "a"]),
    (regex(r"(?s).+?x"), ['"\n\\x'], ["y", "x"]),
    (regex(r"a.b"), ['a"b', "a\\b"], ["a\nb", "ab"]),
    (regex(r"[^\n\"]+"), ["\\\t/"], ["a\nb", '"']),
    (regex(r"[a/\]\"]+"), ['a/"]'], ["b"]),
    (regex(r"[[:punct:]]+"), ['"\\/'], ["a"]),
    (regex(r"\p{P}+\PN"), ['"\\\n'], ["a", '"1']),
    (regex(r"(?i)abc|\x{22}X\u0041"), ["ABC", '"xa'], ["ab", "b"]),
    (regex("tab\tline\nbreak"), ["tab\tline\nbreak"], ["tab line"]),
    (regex("^$"), [""], ["a"]),
]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(("tool", "right", "wrong"), CASES, ids=range(len(CASES)))
def test_a_demanded_call_says_what_the_grammar_allows_and_nothing_else(
    tool: Tool, right: list[str], wrong: list[str], format_: ToolFormat
) -> None:
    (grammar,) = demanded_call(format_, [tool])
    assert [text for text in right if not allowed(grammar, call(format_, text))] == []
    assert [text for text in wrong if allowed(grammar, call(format_, text))] == []


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(("tool", "right", "wrong"), CASES, ids=range(len(CASES)))
def test_a_call_within_any_answer_does_so_too(
    tool: Tool, right: list[str], wrong: list[str], format_: ToolFormat
) -> None:
    (grammar,) = call_inputs(format_, [tool])
    answers = [f"Well {{\n\n<t>\n{call(format_, text)}\n</t>\nand more" for text in right]
    assert [answer for answer in answers if not allowed(grammar, answer)] == []
    assert [text for text in wrong if allowed(grammar, f"<t>\n{call(format_, text)}\n</t>")] == []
    first = call(format_, right[0])
    assert allowed(grammar, f"{first}\n{first}")
    assert not allowed(grammar, f"{first}\n{call(format_, wrong[0])}")
    assert allowed(grammar, 'prose, {"name": "other", "arguments": {"input": 1}} and <function=u>')


@pytest.mark.parametrize("format_", FORMATS)
def test_other_tools_are_called_beside_it_as_their_schemas_say(format_: ToolFormat) -> None:
    other = Tool("o", "", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    (grammar,) = demanded_call(format_, [custom(PATCH_GRAMMAR), other])
    numbers = {
        ToolFormat.JSON: '{{"name": "o", "arguments": {{"n": {}}}}}',
        ToolFormat.XML: "<function=o>\n<parameter=n>\n{}\n</parameter>\n</function>",
    }
    assert allowed(grammar, call(format_, PATCH))
    assert allowed(grammar, numbers[format_].format("12"))
    assert not allowed(grammar, numbers[format_].format('"x"'))


@pytest.mark.parametrize("format_", FORMATS)
def test_a_pretty_printed_call_is_one_too(format_: ToolFormat) -> None:
    (grammar,) = call_inputs(format_, [regex("a+")])
    texts = {
        ToolFormat.JSON: '{\n  "name": "t",\n  "arguments": {"input":"%s"}\n}',
        ToolFormat.XML: "<function=t>\n\n<parameter=input>\n%s\n</parameter>",
    }
    assert allowed(grammar, texts[format_] % "aa")
    assert not allowed(grammar, texts[format_] % "ab")


def test_without_a_grammar_any_answer_will_do() -> None:
    assert call_inputs(ToolFormat.JSON, [Tool("t", "", PARAMETERS, kind=ToolKind.CUSTOM)]) == ()


@pytest.mark.parametrize(
    ("tool", "sentence"),
    [
        (custom("start: <|im_end|>\n"), "line 1 can't be read from '<|im_end|>' on"),
        (custom('start: "a"\n  %json {}\n'), "line 2 can't be read"),
        (custom('start: "a\n'), "line 1 can't be read"),
        (custom('start: X\nX: "ab".."c"\n'), "is no range of single characters"),
        (custom('start: X\nX: "\\q"\n'), "can't be read"),
        (custom("start: X\n%import common.NOTHING\n"), "common has no terminal NOTHING"),
        (custom("start: /a/x\n"), "the flag x"),
        (custom("".join(f'r{number}: "a"\n' for number in range(501))), "more than 500 rules"),
        (regex("a(?=b)"), "neither ahead nor behind"),
        (regex("(?<!a)b"), "neither ahead nor behind"),
        (regex("[a-z&&[^b]]"), "is made of other sets"),
        (regex("[z-a]"), "can't be read"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_tool(tool: Tool, sentence: str) -> None:
    for grammars in (demanded_call, call_inputs):
        with pytest.raises(InvalidRequest, match="It is the grammar of the tool 't'") as refused:
            grammars(ToolFormat.JSON, [tool])
        assert sentence in str(refused.value)
        assert refused.value.field == "tools"
