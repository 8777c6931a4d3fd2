"""Custom tools: they take one text instead of arguments, and the text may have a grammar.

To the model each is a function of one argument, the text. Source: OpenAI's API reference.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field

from quern.api.shared.fields import RequestObject, type_of
from quern.types import CUSTOM_INPUT, GrammarSyntax, InputGrammar, Tool, ToolKind

CUSTOM = "custom"
GRAMMAR = "grammar"
INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {CUSTOM_INPUT: {"type": "string"}},
    "required": [CUSTOM_INPUT],
    "additionalProperties": False,
}
"""The parameters that the model is shown."""
NAMES_OF_SYNTAXES = {GrammarSyntax.LARK: "a Lark grammar", GrammarSyntax.REGEX: "a regular expression"}


class TextFormat(RequestObject):
    """Any text."""

    type: Literal["text"]

    def input_grammar(self) -> InputGrammar | None:
        """None: nothing to keep to."""
        return None


class GivenGrammar(RequestObject):
    """A grammar."""

    syntax: GrammarSyntax
    definition: str


class GrammarFormat(RequestObject):
    """A text of a grammar."""

    type: Literal["grammar"]
    grammar: GivenGrammar

    def input_grammar(self) -> InputGrammar | None:
        """The grammar as a value."""
        return InputGrammar(self.grammar.syntax, self.grammar.definition)


def _nested(described: Any) -> Any:
    """A grammar that stands beside the format's type, as in the Responses API, as one inside of it; an empty object is
    no format.
    """
    if described == {}:
        return None
    if type_of(described) != GRAMMAR or GRAMMAR in described:
        return described
    members = cast("dict[str, Any]", described)
    return {"type": GRAMMAR, GRAMMAR: {name: value for name, value in members.items() if name != "type"}}


CustomFormat = Annotated[
    Annotated[TextFormat | GrammarFormat, Field(discriminator="type")] | None, BeforeValidator(_nested)
]
"""What a tool's text may look like; None is any text."""


def custom_tool(name: str, description: str, grammar: InputGrammar | None, namespace: str | None = None) -> Tool:
    """The tool as a value. The model has to know its grammar: what it would write otherwise can't be kept to it."""
    shown = [description] if description else []
    if grammar is not None:
        shown.append(f"The input has this form ({NAMES_OF_SYNTAXES[grammar.syntax]}):\n{grammar.definition}")
    return Tool(name, "\n".join(shown), INPUT_SCHEMA, kind=ToolKind.CUSTOM, namespace=namespace, input_grammar=grammar)
