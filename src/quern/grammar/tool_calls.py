"""Grammars of one call, for answers in which a call is demanded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from quern.grammar.embedded_schema import EmbeddedSchema
from quern.grammar.structure import structure_of
from quern.grammar.tool_format import ToolFormat
from quern.grammar.xml_calls import gbnf, lark
from quern.types import Tool


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """What an answer after `OPENING` has to be, in the notations that engines read; it ends with the call.

    Either `json_schema` is given, as text, or `lark`, with llguidance's extensions, and `gbnf`, which llama.cpp reads.
    """

    json_schema: str | None = None
    lark: str | None = None
    gbnf: str | None = None


def call_grammars(format: ToolFormat, tools: Sequence[Tool]) -> list[CallGrammar]:  # noqa: A002
    """Exactly one call of one of the tools, of which there is at least one: the grammars that will do, strictest first.

    An engine that can't keep to the first takes the next: there, only the structure of a tool's schema is enforced,
    unless the tool is strict. Raises InvalidRequest where the tools' schemas are too large.
    """
    loose = [tool if tool.strict else replace(tool, parameters=structure_of(tool.parameters)) for tool in tools]
    grammars = [_call_grammar(format, tools), _call_grammar(format, loose)]
    return grammars[:1] if grammars[0] == grammars[1] else grammars


def _call_grammar(format: ToolFormat, tools: Sequence[Tool]) -> CallGrammar:  # noqa: A002
    if format is ToolFormat.JSON:
        return CallGrammar(json_schema=_json_schema(tools))
    return CallGrammar(lark=lark(tools), gbnf=gbnf(tools))


def _json_schema(tools: Sequence[Tool]) -> str:
    schemas = [EmbeddedSchema(tool.parameters, f"tool{number}") for number, tool in enumerate(tools)]
    calls: list[dict[str, Any]] = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": schema.arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool, schema in zip(tools, schemas, strict=True)
    ]
    call = calls[0] if len(calls) == 1 else {"anyOf": calls}
    definitions = {name: definition for schema in schemas for name, definition in schema.definitions.items()}
    return json.dumps({**call, **({"$defs": definitions} if definitions else {})}, ensure_ascii=False)
