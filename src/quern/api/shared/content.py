"""What a message says: a string, or parts, of which the model can read those of text.

A part that is no text (an image, audio, a file) is refused in what is said now, since leaving it out would change the
answer's meaning. In what was said before it becomes a sentence in its place: a client sends its history again with
every request, and would be refused for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import BeforeValidator

from quern.errors import InvalidRequest

TEXT_PARTS = frozenset({"text", "input_text", "output_text", "summary_text", "reasoning_text"})
KNOWN_MEMBERS = frozenset(
    {"type", "text", "annotations", "cache_control", "citations", "logprobs", "prompt_cache_breakpoint", "refusal"}
)
THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""Parts of an answer that no model is shown again."""
NO_CONTENT = "it must be a string or a list of parts, and a part of text has its text as a string in the member 'text'"
KINDS = ("image", "audio", "video", "file", "document")


@dataclass(frozen=True, slots=True)
class UnreadablePart:
    """A part that is no text. `place`: where in the content it is; `shown`: what it is shown as, where it is no part of
    any type.
    """

    place: str
    type: str
    shown: str | None = None

    def sentence(self) -> str:
        """What stands in its place in what was said before."""
        if self.shown is not None:
            return self.shown
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
                if part.shown is not None:
                    raise InvalidRequest(
                        f"The field {where} can't be used: {NO_CONTENT}. Send text, or leave it out.", field=where
                    )
                raise InvalidRequest(
                    f"The field {where} can't be used: a part of the type {part.type!r} is no text, and the model "
                    f"reads text only. Say in a part of text what it shows, or leave it out.",
                    field=where,
                )
        return self.before()

    def before(self) -> str:
        """The text, with sentences in the places of what is none, and without what another model thought."""
        return "\n".join(
            part if isinstance(part, str) else part.sentence() for part in self.parts if not _is_thought(part)
        )


def content_of(value: Any) -> Content:
    """A string, a part, or parts; null is nothing. Another value can't be used now, and is shown as JSON later."""
    if value is None or isinstance(value, Content):
        return value or Content()
    if isinstance(value, str):
        return Content((value,))
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(
        part is None or isinstance(part, str | dict) for part in cast("list[Any]", value)
    ):
        return Content((_no_part(value, ""),))
    parts: list[str | UnreadablePart] = []
    unknown: list[str] = []
    for index, part in enumerate(cast("list[Any]", value)):
        if part is None:
            continue
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
    is_text = kind is None or (isinstance(kind, str) and kind in TEXT_PARTS)
    if kind == "refusal":
        return str(members.get("refusal") or "")
    if is_text and isinstance(text, str):
        return text
    if is_text and kind and text is None:
        return _no_part("", place)
    if is_text or not isinstance(kind, str):
        return _no_part(part, place)
    return UnreadablePart(place, kind)


def _no_part(value: Any, place: str) -> UnreadablePart:
    return UnreadablePart(place, "", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _is_thought(part: str | UnreadablePart) -> bool:
    return isinstance(part, UnreadablePart) and part.type in THOUGHTS


ContentField = Annotated[
    Content,
    BeforeValidator(content_of, json_schema_input_type=str | list[str | dict[str, Any]] | dict[str, Any] | None),
]
"""A string or parts in, a `Content` out."""

SaidBefore = Annotated[Content, BeforeValidator(content_of, json_schema_input_type=Any)]
"""The same, of what only was said before: anything."""
