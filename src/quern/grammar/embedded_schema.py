"""A tool's schema as a part of another schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from quern.grammar.schema_walk import DEFINITIONS, mapping

NOT_SCHEMAS = frozenset({"const", "enum"})
ANNOTATIONS = frozenset({
    "$comment", "default", "deprecated", "description", "example", "examples", "readOnly", "title", "writeOnly",
})  # fmt: skip
"""Keywords that demand nothing; they would only make a grammar's text long."""
OF_NAMED_SCHEMAS = frozenset({"dependentSchemas", "patternProperties", "properties", *DEFINITIONS})
OF_A_WHOLE_SCHEMA = frozenset({"$id", "$schema", *DEFINITIONS})
OPEN_ENDED = frozenset({"$ref", "additionalProperties", "allOf", "anyOf", "oneOf", "patternProperties"})
NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class EmbeddedSchema:
    """The schema of a tool's arguments, with references that still hold where it is embedded.

    `arguments` goes where the arguments are; `definitions` belong into the outermost schema's `$defs`, in which every
    name begins with `prefix`. `properties` are the schemas of the single arguments.
    """

    def __init__(self, parameters: Mapping[str, Any], prefix: str) -> None:
        self._prefix = prefix
        self._refers_to_itself = False
        own = {keyword: value for keyword, value in parameters.items() if keyword not in OF_A_WHOLE_SCHEMA}
        nothing_said = not own.get("properties") and OPEN_ENDED.isdisjoint(own)
        self.arguments: dict[str, Any] = dict(NO_ARGUMENTS) if nothing_said else {"type": "object", **self._moved(own)}
        self.definitions: dict[str, Any] = {
            f"{prefix}.{name}": self._moved(schema)
            for keyword in DEFINITIONS
            for name, schema in mapping(parameters.get(keyword)).items()
        }
        if self._refers_to_itself:
            self.definitions[prefix] = self.arguments
        self.properties: Mapping[str, Any] = mapping(self.arguments.get("properties"))

    def _moved(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return [self._moved(part) for part in cast("list[Any]", schema)]
        if not isinstance(schema, Mapping):
            return schema
        moved: dict[str, Any] = {}
        for keyword, value in cast("Mapping[str, Any]", schema).items():
            if keyword in ANNOTATIONS or keyword.startswith("x-"):
                continue
            if keyword in OF_NAMED_SCHEMAS:
                moved[keyword] = {name: self._moved(part) for name, part in mapping(value).items()}
            elif keyword == "$ref" and isinstance(value, str) and value.startswith("#"):
                moved[keyword] = self._moved_reference(value)
            else:
                moved[keyword] = value if keyword in NOT_SCHEMAS else self._moved(value)
        return moved

    def _moved_reference(self, reference: str) -> str:
        for keyword in DEFINITIONS:
            beginning = f"#/{keyword}/"
            if reference.startswith(beginning):
                return f"#/$defs/{self._prefix}.{reference.removeprefix(beginning)}"
        self._refers_to_itself = True
        return f"#/$defs/{self._prefix}{reference.removeprefix('#')}"
