"""Grammars of tools' calls, in the format in which a model writes them.

A demanded call in Qwen2.5's format is JSON of a schema. In Qwen3-Coder's format arguments come in the schema's order,
required ones always. A string is any text up to the first end of a parameter on a line of its own, or one of its
choices; other values are JSON of the argument's schema. It ends with `</function>`, since nothing is left to choose
after it.

The text of a custom tool is the argument `input` to the model. Its grammar holds within that argument, which in
Qwen2.5's format is a JSON string. Where a tool has one, the JSON of a demanded call is laid out in one way only:
llguidance can't tell which of two grammars within another has begun before the first one's text differs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from quern.errors import InvalidRequest
from quern.grammar.input_grammar import embedded
from quern.grammar.kinds import Grammar, JsonGrammar, LarkGrammar
from quern.grammar.object_shapes import object_shapes
from quern.grammar.parameter_types import ParameterTypes
from quern.grammar.schema_walk import mapping
from quern.grammar.tool_schemas import EmbeddedSchema, loose_alternatives
from quern.types import CUSTOM_INPUT, Tool

OPENING = "<tool_call>\n"
"""What the prompt ends with where a call is demanded: the answer then begins inside a call."""

MOST_TEXT = 2**21
"""Characters of a grammar. Each argument repeats what it may refer to, so it can outgrow the schemas by far."""

CLOSING = '"}}'
"""What follows a custom tool's text in a call that is JSON."""
TAGS = "<tool_call> | </tool_call>"
BLANKS = r"[ \n]{0,8}"

VALUE_END = "\n</parameter>"
XML_TEXT = r"text[lazy]: /(?s:.*)\n<\/parameter>/"

CALLS_OR_JSON = r"""
start: call+ | answer
call: <tool_call> TEXT </tool_call> "\n"?
TEXT: /(?s:.*)/ & ~/(?s:.*)<\/?tool_call>(?s:.*)/
answer: %json {schema}
""".lstrip()
"""Both tags are tokens of their own. An engine may take them for text all the same, which `TEXT` therefore excludes."""


class ToolFormat(StrEnum):
    """How a model writes calls: Qwen2.5's JSON or Qwen3-Coder's XML, both between `<tool_call>` tags."""

    JSON = "json"
    XML = "xml"


def tool_format(chat_template: str) -> ToolFormat | None:
    """The format that a model's chat template teaches; None where it knows no tools."""
    if "<function=" in chat_template:
        return ToolFormat.XML
    return ToolFormat.JSON if "<tool_call>" in chat_template else None


def demanded_call(format: ToolFormat, tools: Sequence[Tool]) -> tuple[Grammar, ...]:  # noqa: A002
    """Of an answer after `OPENING` that is one call of one of the tools, of which there is at least one: the grammars
    that will do, strictest first.

    Where the first can't be kept to, the next will do: there, only the structure of a tool's schema is enforced, unless
    the tool is strict. Raises InvalidRequest where the tools' schemas are too large.
    """
    grammar_of = _json_call if format is ToolFormat.JSON else _xml_call
    if format is ToolFormat.JSON and any(tool.input_grammar is not None for tool in tools):
        grammar_of = _json_call_of_custom
    strict = [[tool] for tool in tools]
    loose = [[tool] if tool.strict else _loose(tool) for tool in tools]
    grammars = grammar_of(strict), grammar_of(loose)
    return grammars[:1] if grammars[0] == grammars[1] else grammars


def call_inputs(format: ToolFormat, tools: Sequence[Tool]) -> tuple[Grammar, ...]:  # noqa: A002
    """Of an answer that is any text with any calls, where the calls of custom tools keep to their grammars; nothing
    where no tool has one.

    A call counts from where its argument begins. Raises InvalidRequest for a grammar that can't be read.
    """
    kept = [tool for tool in tools if tool.input_grammar is not None]
    if not kept:
        return ()
    rules = [
        "start: part* TEXT?",
        f"part: TEXT? ({TAGS}) | {' | '.join(f'call{number}' for number in range(len(kept)))}",
    ]
    for number, tool in enumerate(kept):
        head, tail = (_json_frame if format is ToolFormat.JSON else _xml_frame)(tool.name)
        rules += [
            f"head{number}[lazy]: /(?s:.*){head}/",
            f"call{number}: head{number} {_input(tool, tail, in_json=format is ToolFormat.JSON)}",
        ]
    return (LarkGrammar("\n".join([*rules, "TEXT: /(?s:.+)/", ""])),)


def calls_or_json(schema: str) -> LarkGrammar:
    """Of an answer that is calls of any tools, or JSON of the schema (as text)."""
    return LarkGrammar(CALLS_OR_JSON.replace("{schema}", json.dumps(json.loads(schema))))


def _loose(tool: Tool) -> list[Tool]:
    """The tool with the structure of its parameters alone, once for each shape that these may have."""
    return [replace(tool, parameters=parameters) for parameters in loose_alternatives(tool.parameters)]


def _json_call(tools: Sequence[Sequence[Tool]]) -> JsonGrammar:
    """`tools`: each with its alternatives."""
    schemas = [
        (alternative.name, EmbeddedSchema(alternative.parameters, f"tool{number}" + (f"-{other}" if other else "")))
        for number, alternatives in enumerate(tools)
        for other, alternative in enumerate(alternatives)
    ]
    calls: list[dict[str, Any]] = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": schema.arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, schema in schemas
    ]
    call = calls[0] if len(calls) == 1 else {"anyOf": calls}
    definitions = {name: definition for _, schema in schemas for name, definition in schema.definitions.items()}
    return JsonGrammar(json.dumps({**call, **({"$defs": definitions} if definitions else {})}, ensure_ascii=False))


def _json_call_of_custom(tools: Sequence[Sequence[Tool]]) -> LarkGrammar:
    """`tools`: each with its alternatives. What a function is called with begins where the name has ended."""
    rules = [f"start: {' | '.join(f'tool{number}' for number in range(len(tools)))}"]
    for number, alternatives in enumerate(tools):
        tool = alternatives[0]
        opening = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": '
        if tool.input_grammar is not None:
            opening += f'{{"{CUSTOM_INPUT}": "'
            rules.append(f"tool{number}: {json.dumps(opening)} {_input(tool, json.dumps(CLOSING), in_json=True)}")
        else:
            schema = _any_arguments([alternative.parameters for alternative in alternatives])
            rules.append(f'tool{number}: {json.dumps(opening)} %json {json.dumps(schema)} "}}"')
    return LarkGrammar("\n".join([*rules, ""]))


def _any_arguments(parameters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A schema of arguments of any of these shapes."""
    schemas = [EmbeddedSchema(shape, f"shape{number}") for number, shape in enumerate(parameters)]
    arguments = [schema.arguments for schema in schemas]
    definitions = {name: definition for schema in schemas for name, definition in schema.definitions.items()}
    any_of = arguments[0] if len(arguments) == 1 else {"anyOf": arguments}
    return {**any_of, **({"$defs": definitions} if definitions else {})}


def _input(tool: Tool, ending: str, *, in_json: bool) -> str:
    """The text of a custom tool that has a grammar, and what follows it, a terminal."""
    assert tool.input_grammar is not None  # noqa: S101 (its callers look)
    try:
        return f"%lark {{\n{embedded(tool.input_grammar, ending, in_json=in_json)}}}"
    except InvalidRequest as error:
        raise InvalidRequest(f"{error} It is the grammar of the tool {tool.name!r}.", "tools") from error


def _json_frame(name: str) -> tuple[str, str]:
    """What stands before a custom tool's text in a call, as a regular expression, and after it, in Lark."""
    names = json.dumps(name, ensure_ascii=False)
    before = rf'\{{{BLANKS}"name"{BLANKS}:{BLANKS}{re.escape(names)}{BLANKS},{BLANKS}"arguments"{BLANKS}:{BLANKS}'
    return rf'{before}\{{{BLANKS}"{CUSTOM_INPUT}"{BLANKS}:{BLANKS}"', rf'/"{BLANKS}\}}{BLANKS}\}}/'


def _xml_frame(name: str) -> tuple[str, str]:
    """The same for Qwen3-Coder's format."""
    return rf"<function={re.escape(name)}>\s*<parameter={CUSTOM_INPUT}>\n", json.dumps(VALUE_END)


@dataclass(frozen=True, slots=True)
class _Argument:
    """`choices`: the texts that it may be, if any; `is_text`: it is any text; else it is JSON of the `schema`.

    `grammar`: what its text keeps to, with its end, as a part of a rule.
    """

    name: str
    required: bool
    choices: tuple[str, ...]
    is_text: bool
    schema: Mapping[str, Any]
    grammar: str | None = None


def _xml_call(tools: Sequence[Sequence[Tool]]) -> LarkGrammar:
    """`tools`: each with its alternatives."""
    names = [f"tool{number}" for number in range(len(tools))]
    rules = [f"start: {' | '.join(names)}"]
    room = MOST_TEXT
    for name, alternatives in zip(names, tools, strict=True):
        for rule in _xml_rules(alternatives, name):
            rules.append(rule)
            room -= len(rule)
            if room < 0:
                raise InvalidRequest(
                    "The schemas of the tools are too large for a call to be demanded. Leave some of the tools out, or "
                    "let fewer arguments refer to the same definitions.",
                    "tools",
                )
    return LarkGrammar("\n".join([*rules, XML_TEXT, ""]))


def _xml_rules(tools: Sequence[Tool], name: str) -> Iterator[str]:
    """A rule for each argument, then the call's, which has this name; its arguments have one of several shapes."""
    written: dict[str, str] = {}
    alternatives: list[str] = []
    for arguments in (arguments for tool in tools for arguments in _arguments(tool, name)):
        parts: list[str] = []
        for argument in arguments:
            opening = json.dumps(f"<parameter={argument.name}>\n")
            body = f'{opening} {_xml_value(argument)} "\\n"'
            if body not in written:
                written[body] = f"{name}-argument{len(written)}"
                yield f"{written[body]}: {body}"
            parts.append(written[body] if argument.required else f"{written[body]}?")
        alternatives.append(" ".join(parts))
    between = dict.fromkeys(filter(None, alternatives))
    arguments_of_call = f"( {' | '.join(between)} ){'' if all(alternatives) else '?'} " if between else ""
    opening = json.dumps(f"<function={tools[0].name}>\n")
    yield f"{name}: {opening} {arguments_of_call}{json.dumps('</function>')}"


def _xml_value(argument: _Argument) -> str:
    """A value with its end."""
    if argument.grammar is not None:
        return argument.grammar
    if argument.choices:
        return f"( {' | '.join(json.dumps(choice + VALUE_END) for choice in argument.choices)} )"
    return "text" if argument.is_text else f"%json {json.dumps(argument.schema)} {json.dumps(VALUE_END)}"


def _arguments(tool: Tool, prefix: str) -> list[list[_Argument]]:
    """The arguments of each shape that they may have together."""
    embedded = EmbeddedSchema(tool.parameters, prefix)
    text = _input(tool, json.dumps(VALUE_END), in_json=False) if tool.input_grammar is not None else None
    alternatives: list[list[_Argument]] = []
    for shape in object_shapes(tool.parameters):
        types = ParameterTypes(tool.parameters, shape)
        moved = {name: embedded.moved(schema) for name, schema in shape.properties.items()}
        definitions = {"$defs": embedded.definitions} if embedded.definitions else {}
        alternatives.append(
            [
                _Argument(
                    name=name,
                    required=name in shape.required,
                    choices=types.choices(name),
                    is_text=not types.of(name) or "string" in types.of(name),
                    schema={**mapping(schema), **definitions},
                    grammar=text,
                )
                for name, schema in moved.items()
            ]
        )
    return alternatives
