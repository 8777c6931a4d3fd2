"""Formats that answers keep to."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from quern.api.shared.fields import JsonSchema, NoOp, RequestObject

ANY_OBJECT = '{"type":"object"}'


class TextFormat(RequestObject):
    """Any text."""

    type: Literal["text"]

    def schema_text(self) -> str | None:
        """None: nothing to keep to."""
        return None


class JsonObjectFormat(RequestObject):
    """Any JSON object."""

    type: Literal["json_object"]

    def schema_text(self) -> str | None:
        """The JSON schema, as text."""
        return ANY_OBJECT


class NamedSchema(RequestObject):
    """A JSON schema with a name for people. It always holds, so `strict` changes nothing."""

    name: str | None = None
    description: NoOp = None
    schema_: JsonSchema = Field(alias="schema")
    strict: NoOp = None


class JsonSchemaFormat(RequestObject):
    """A JSON value of a schema, as Chat Completions asks for it."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    def schema_text(self) -> str | None:
        """The JSON schema, as text."""
        return json.dumps(self.json_schema.schema_)
