"""What the fields of every dialect's requests have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MOST_STOPS = 16
MOST_STOP_CHARACTERS = 256
MOST_MESSAGES = 10_000
MOST_SCHEMA_LEVELS = 100


class Strict(BaseModel):
    """An object of a request: unknown members are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


NoOp = Annotated[Any, Field(json_schema_extra={"no_op": True})]
"""A field that these APIs know and that changes nothing here; docs/api.md lists them."""


StopText = Annotated[str, Field(min_length=1, max_length=MOST_STOP_CHARACTERS)]
"""A text that ends an answer."""


def _not_too_deep(schema: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [schema]
    for _ in range(MOST_SCHEMA_LEVELS):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return schema
    raise ValueError(f"It has more than {MOST_SCHEMA_LEVELS} levels inside of each other. Make it flatter")


def _inside(value: Any) -> list[Any]:
    inner = cast("dict[str, Any]", value).values() if isinstance(value, dict) else cast("list[Any]", value)
    return [one for one in inner if isinstance(one, dict | list)]


JsonSchema = Annotated[dict[str, Any], AfterValidator(_not_too_deep)]
"""A JSON schema, of which nothing is known but that it can be walked through."""


def type_of(value: Any) -> str | None:
    """The member `type` of a JSON object; None where there is no such text."""
    kind = cast("dict[str, Any]", value).get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or parts of text, each on lines of its own. Raises ValueError."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        msg = "It must be a string or a list of parts"
        raise ValueError(msg)  # noqa: TRY004 (pydantic makes a sentence of a ValueError)
    return "\n".join(_part_text(part) for part in cast("list[Any]", content))


TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
PART_MEMBERS = frozenset(
    {"type", "text", "annotations", "cache_control", "citations", "logprobs", "prompt_cache_breakpoint"}
)


def _part_text(part: Any) -> str:
    members: Mapping[str, Any] = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    kind, text = members.get("type"), members.get("text")
    if kind == "refusal":
        return str(members.get("refusal", ""))
    if kind not in TEXT_PARTS:
        msg = f"A part of the type {kind!r} can't be used, since the model reads text only. Send parts of text"
        raise ValueError(msg)
    unknown = sorted(members.keys() - PART_MEMBERS)
    if unknown:
        msg = f"A part of text has no member {unknown[0]!r}. Leave it out"
        raise ValueError(msg)
    if not isinstance(text, str):
        msg = "A part of text has its text as a string in the member 'text'"
        raise ValueError(msg)  # noqa: TRY004 (as above)
    return text


Text = Annotated[str, BeforeValidator(text_of)]
"""A content: a string or parts of text in, the text out."""
