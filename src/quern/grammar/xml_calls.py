"""Grammars of one call in Qwen3-Coder's format: Lark as llguidance reads it, and GBNF as llama.cpp does.

Arguments come in the schema's order, required ones always. A string is any text up to the first end of a parameter on
a line of its own, or one of its choices. Other values are JSON: in Lark of the argument's schema, in GBNF of any kind.
Both end with `</function>`, since nothing is left to choose after it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quern.errors import InvalidRequest
from quern.grammar.embedded_schema import EmbeddedSchema
from quern.grammar.parameter_types import ParameterTypes
from quern.grammar.schema_walk import mapping
from quern.types import Tool

MOST_TEXT = 2**21
"""Characters of a grammar. Each argument repeats what it may refer to, so it can outgrow the schemas by far."""

VALUE_END = "\n</parameter>"

LARK_TEXT = r"text[lazy]: /(?s:.*)\n<\/parameter>/"
GBNF_JSON = r"""
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ( string ": " value ( ", " string ": " value )* )? "}"
array ::= "[" ( value ( ", " value )* )? "]"
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} ) )* "\""
number ::= "-"? ( "0" | [1-9] [0-9]{0,15} ) ( "." [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,3} )?
""".strip()
GBNF_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


@dataclass(frozen=True, slots=True)
class _Argument:
    """`choices`: the texts that it may be, if any; `is_text`: it is any text; else it is JSON of the `schema`."""

    name: str
    required: bool
    choices: tuple[str, ...]
    is_text: bool
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Notation:
    """How a grammar is written. `text` and `json`: a value of free text or JSON, with its end."""

    start: str
    defines: str
    literal: Callable[[str], str]
    text: str
    json: Callable[[_Argument], str]


def lark(tools: Sequence[Tool]) -> str:
    """The whole grammar; its first rule is `start`. Raises InvalidRequest where it is too large."""
    end = json.dumps(VALUE_END)
    notation = _Notation(
        start="start",
        defines=":",
        literal=json.dumps,
        text="text",
        json=lambda argument: f"%json {json.dumps(argument.schema)} {end}",
    )
    return "\n".join([*_rules(tools, notation), LARK_TEXT, ""])


def gbnf(tools: Sequence[Tool]) -> str:
    """The whole grammar; its first rule is `root`. Raises InvalidRequest where it is too large."""
    notation = _Notation(
        start="root",
        defines=" ::=",
        literal=_gbnf_literal,
        text="text0",
        json=lambda _: f"value {_gbnf_literal(VALUE_END)}",
    )
    return "\n".join([*_rules(tools, notation), *_gbnf_text(), GBNF_JSON, ""])


def _rules(tools: Sequence[Tool], notation: _Notation) -> list[str]:
    calls = [f"tool{number}" for number in range(len(tools))]
    rules = [f"{notation.start}{notation.defines} {' | '.join(calls)}"]
    room = MOST_TEXT
    for call, tool in zip(calls, tools, strict=True):
        parts = [notation.literal(f"<function={tool.name}>\n")]
        for number, argument in enumerate(_arguments(tool, call)):
            name = f"{call}-argument{number}"
            rules.append(f"{name}{notation.defines} {_argument_rule(argument, notation)}")
            room -= len(rules[-1])
            if room < 0:
                raise InvalidRequest(
                    "The schemas of the tools are too large for a call to be demanded. Leave some of the tools out, or "
                    "let fewer arguments refer to the same definitions.",
                    "tools",
                )
            parts.append(name if argument.required else f"{name}?")
        parts.append(notation.literal("</function>"))
        rules.append(f"{call}{notation.defines} {' '.join(parts)}")
    return rules


def _argument_rule(argument: _Argument, notation: _Notation) -> str:
    if argument.choices:
        choices = " | ".join(notation.literal(choice + VALUE_END) for choice in argument.choices)
        value = f"( {choices} )"
    else:
        value = notation.text if argument.is_text else notation.json(argument)
    opening = notation.literal(f"<parameter={argument.name}>\n")
    return f"{opening} {value} {notation.literal(chr(10))}"


def _arguments(tool: Tool, prefix: str) -> list[_Argument]:
    embedded = EmbeddedSchema(tool.parameters, prefix)
    types = ParameterTypes(tool.parameters)
    required = embedded.arguments.get("required") or ()
    return [
        _Argument(
            name=name,
            required=name in required,
            choices=types.choices(name),
            is_text=not types.of(name) or "string" in types.of(name),
            schema={**mapping(schema), **({"$defs": embedded.definitions} if embedded.definitions else {})},
        )
        for name, schema in embedded.properties.items()
    ]


def _gbnf_text() -> list[str]:
    """Rules for a text up to the first `VALUE_END`: the automaton that looks for it, a rule for each state.

    Only its first character is a line break, so a character that does not go on leads to the beginning, or, if it is a
    line break, to the state after that.
    """
    first, last = VALUE_END[0], VALUE_END[-1]
    rules = [f"text0 ::= {_gbnf_literal(first)} text1 | {_gbnf_except(first)} text0"]
    for state, character in enumerate(VALUE_END[1:], start=1):
        going_on = _gbnf_literal(character) + (f" text{state + 1}" if character != last else "")
        starting_again = f"{_gbnf_literal(first)} text1 | {_gbnf_except(first + character)} text0"
        rules.append(f"text{state} ::= {going_on} | {starting_again}")
    return rules


def _gbnf_except(characters: str) -> str:
    return f"[^{''.join(GBNF_ESCAPES.get(character, character) for character in characters)}]"


def _gbnf_literal(text: str) -> str:
    escaped = (GBNF_ESCAPES.get(character) or _gbnf_character(character) for character in text)
    return f'"{"".join(escaped)}"'


def _gbnf_character(character: str) -> str:
    return character if character.isprintable() else f"\\U{ord(character):08X}"
