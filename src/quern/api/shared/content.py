"""What a message says: a string, or parts, of which the model can read those of text.

A part that is no text (an image, audio, a file) is refused in what is said now, since leaving it out would change the
answer's meaning. In what was said before it becomes a sentence in its place: a client sends its history again with
every request, and would be refused for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

from pydantic import BeforeValidator

from quern.errors import InvalidRequest

TEXT_PARTS = frozenset({"text", "input_text", "output_text", "summary_text", "reasoning_text"})
KNOWN_MEMBERS = frozenset(
    {"type", "text", "annotations", "cache_control", "citations", "logprobs", "prompt_cache_breakpoint", "refusal"}
)
THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""Parts of an answer that no model is shown again."""
KINDS = ("image", "audio", "video", "file", "document")


@dataclass(frozen=True, slots=True)
class UnreadablePart:
    """A part that is no text. `place`: where in the content it is."""

    place: str
    type: str

    def sentence(self) -> str:
        """What stands in its place in what was said before."""
        kind = next((kind for kind in KINDS if kind in self.type), None)
        if kind is None:
            return f"[a part of the type {self.type!r} was here]"
        return f"[{'an' if kind[0] in 'aeiou' else 'a'} {kind} was here]"


@dataclass(frozen=True, slots=True)
class Content:
    """What a message says, part by part. `unknown`: members of parts that were left out, by their paths."""

    parts: tuple[str | UnreadablePart, ...] = ()
    unknown: tuple[str, ...] = ()

    def now(self, field: str) -> str:
        """The text, each part on lines of its own. Raises InvalidRequest where one is none.

        `field`: the content's.
        """
        for part in self.parts:
            if isinstance(part, UnreadablePart):
                where = f"{field}.{part.place}" if part.place else field
                raise InvalidRequest(
                    f"The field {where} can't be used: a part of the type {part.type!r} is no text, and the model "
                    f"reads text only. Say in a part of text what it shows, or leave it out.",
                    field=where,
                )
        return self.before()

    def before(self) -> str:
        """The text, with sentences in the places of what is none."""
        return "\n".join(part if isinstance(part, str) else part.sentence() for part in self.parts)


def content_of(value: Any) -> Any:
    """A string, a part, or parts; null is nothing. Raises ValueError for another value."""
    if value is None or isinstance(value, Content):
        return value or Content()
    if isinstance(value, str):
        return Content((value,))
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        msg = "It must be a string or a list of parts"
        raise ValueError(msg)  # noqa: TRY004 (pydantic makes a sentence of a ValueError)
    parts: list[str | UnreadablePart] = []
    unknown: list[str] = []
    for index, part in enumerate(cast("list[Any]", value)):
        parts.append(_part(part, str(index)))
        if isinstance(part, dict) and isinstance(parts[-1], str):
            members = cast("Mapping[str, Any]", part)
            unknown += [
                f"{index}.{name}" for name in members if name not in KNOWN_MEMBERS and members[name] is not None
            ]
    return Content(tuple(parts), tuple(unknown))


def _part(part: Any, place: str) -> str | UnreadablePart:
    if isinstance(part, str):
        return part
    members: Mapping[str, Any] = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    kind, text = members.get("type"), members.get("text")
    if kind == "refusal":
        return str(members.get("refusal") or "")
    if isinstance(text, str) and (kind is None or kind in TEXT_PARTS):
        return text
    if kind in TEXT_PARTS or not isinstance(kind, str):
        msg = "A part of text has its text as a string in the member 'text'"
        raise ValueError(msg)
    return UnreadablePart(place, kind)


def said_before(value: Any) -> Any:
    """The same of what was said before, whatever it is: no text, it is shown as JSON."""
    try:
        content = content_of(value)
    except ValueError:
        return Content((json.dumps(value, ensure_ascii=False),))
    return replace(content, parts=tuple(part for part in content.parts if not _is_thought(part)))


def _is_thought(part: str | UnreadablePart) -> bool:
    return isinstance(part, UnreadablePart) and part.type in THOUGHTS


ContentField = Annotated[
    Content,
    BeforeValidator(content_of, json_schema_input_type=str | list[str | dict[str, Any]] | dict[str, Any] | None),
]
"""A string or parts in, a `Content` out."""

SaidBefore = Annotated[Content, BeforeValidator(said_before, json_schema_input_type=Any)]
"""Anything in, a `Content` out."""
