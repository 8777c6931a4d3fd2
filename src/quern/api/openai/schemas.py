"""Formats that answers keep to, by OpenAI's names and by vLLM's.

Source of vLLM's: "Structured Outputs" in its documentation; `guided_…` are the older names. llama.cpp's and LM Studio's
clients send a schema beside the format's type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag

from quern.api.shared.fields import ANY_OBJECT, JsonSchema, LeftOut, NoOp, RequestObject, refused
from quern.errors import InvalidRequest
from quern.types import Language, Syntax

MOST_CHOICES_OF_TEXT = 1000
NO_FORMAT, SOME_FORMAT = "no format", "some format"
NO_TAGS = "Structural tags are not served. Send json, regex, choice or grammar"


class TextFormat(RequestObject):
    """Any text."""

    type: Literal["text"]

    def schema_text(self) -> str | None:
        """None: nothing to keep to."""
        return None


class JsonObjectFormat(RequestObject):
    """Any JSON object, or a JSON value of the schema beside it."""

    type: Literal["json_object"]
    schema_: JsonSchema | None = Field(default=None, alias="schema")

    def schema_text(self) -> str | None:
        """The JSON schema, as text."""
        return ANY_OBJECT if self.schema_ is None else json.dumps(self.schema_)


class NamedSchema(RequestObject):
    """A JSON schema with a name for people. It always holds, so `strict` changes nothing."""

    name: str | None = None
    description: NoOp = None
    schema_: JsonSchema | None = Field(default=None, alias="schema")
    strict: NoOp = None


class JsonSchemaFormat(RequestObject):
    """A JSON value of a schema, as Chat Completions asks for it; without one, any JSON object."""

    type: Literal["json_schema"]
    json_schema: NamedSchema | None = None
    schema_: JsonSchema | None = Field(default=None, alias="schema")

    def schema_text(self) -> str | None:
        """The JSON schema, as text. Raises InvalidRequest."""
        if self.json_schema is None and self.schema_ is None:
            field = "response_format.json_schema"
            raise InvalidRequest(f"The field {field} is missing. Send the schema there.", field)
        schema = self.json_schema.schema_ if self.json_schema is not None else self.schema_
        return ANY_OBJECT if schema is None else json.dumps(schema)


class NoFormat(LeftOut):
    """A format that says nothing: left out, and named."""

    def schema_text(self) -> str | None:
        """None: nothing to keep to."""
        return None


def with_type(value: Any) -> Any:
    """A format that does not say its type is that of the schema in it. Without one it says nothing."""
    if value == "":
        return {}
    if not isinstance(value, dict) or (members := cast("dict[str, Any]", value)).get("type"):
        return cast("Any", value)
    told = {name: it for name, it in members.items() if it is not None and name != "type"}
    return {"type": "json_schema", **told} if told.keys() & {"json_schema", "schema"} else told


def format_or_none(value: Any) -> str:
    """The tag of what `with_type` gives."""
    return NO_FORMAT if value == {} or isinstance(value, NoFormat) else SOME_FORMAT


ResponseFormat = Annotated[
    Annotated[
        Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")], Tag(SOME_FORMAT)
    ]
    | Annotated[NoFormat, Tag(NO_FORMAT)],
    Discriminator(format_or_none),
    BeforeValidator(with_type),
]


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What an answer keeps to: a JSON schema (as text), a language, or nothing; and the field that asks for it."""

    schema: str | None = None
    language: Language | None = None
    field: str | None = None

    @property
    def free(self) -> bool:
        """Whether it is nothing."""
        return self.schema is None and self.language is None


def _schema_text(value: Any) -> Any:
    """vLLM takes a schema as text, too."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        msg = "It must be a JSON schema: an object, or the text of one"
        raise ValueError(msg) from None


SchemaOrText = Annotated[JsonSchema, BeforeValidator(_schema_text, json_schema_input_type=dict[str, Any] | str)]
Choices = Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES_OF_TEXT)]


class StructuredOutputs(RequestObject):
    """One of vLLM's kinds of formats."""

    json_: SchemaOrText | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Annotated[None, refused(NO_TAGS)] = None
    disable_additional_properties: NoOp = None
    disable_any_whitespace: NoOp = None
    disable_fallback: NoOp = None
    whitespace_pattern: NoOp = None

    def formats(self) -> list[AnswerFormat]:
        """Those that are asked for, by the names of vLLM's `structured_outputs`."""
        return [*_formats("structured_outputs.", self.json_, self.regex, self.choice, self.grammar)] + (
            [AnswerFormat(ANY_OBJECT, None, "structured_outputs.json_object")] if self.json_object else []
        )


class GuidedFields(RequestObject):
    """Formats as vLLM's clients ask for them."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaOrText | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    guided_decoding_backend: NoOp = None
    guided_whitespace_pattern: NoOp = None

    def answer_format(self, response_format: ResponseFormat | None = None) -> AnswerFormat:
        """The one that is asked for. Raises InvalidRequest where there are several."""
        asked = [*_formats("guided_", self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar)]
        if self.structured_outputs is not None:
            asked += self.structured_outputs.formats()
        if response_format is not None:
            asked.append(AnswerFormat(response_format.schema_text(), None, "response_format"))
        asked = [one for one in asked if not one.free]
        if len(asked) > 1:
            raise InvalidRequest(
                f"An answer keeps to one format, and {asked[0].field} and {asked[1].field} ask for two. Send one.",
                field=asked[0].field,
            )
        return asked[0] if asked else AnswerFormat()


def _formats(
    prefix: str, schema: dict[str, Any] | None, regex: str | None, choice: list[str] | None, grammar: str | None
) -> Iterator[AnswerFormat]:
    if schema is not None:
        yield AnswerFormat(json.dumps(schema), None, f"{prefix}json")
    if regex is not None:
        yield AnswerFormat(None, Language(Syntax.REGEX, regex), f"{prefix}regex")
    if choice is not None:
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in choice)
        yield AnswerFormat(None, Language(Syntax.LARK, f"start: {texts}\n"), f"{prefix}choice")
    if grammar is not None:
        yield AnswerFormat(None, Language(Syntax.LARK, grammar), f"{prefix}grammar")
