"""Documents and results as the text that the model is shown.

Source of the frame: "Long context prompting tips" in Anthropic's documentation.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, cast

from quern.api.shared.content import content_of

ENCRYPTED = "encrypted_"
"""How the names of members begin that only a vendor's own server can read."""


def framed(tag: str, parts: Mapping[str, str | None]) -> str:
    """The parts that there are, each between tags of its name, between tags of the whole's."""
    inner = "\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in parts.items() if text)
    return f"<{tag}>\n{inner}\n</{tag}>"


def source_text(source: Any) -> str | None:
    """The text of a document's source, or of blocks; None where it has none that can be read."""
    match source:
        case {"type": "text", "data": str(data)}:
            return data
        case {"type": "content", "content": content}:
            return source_text(content)
        case {"type": "base64", "media_type": str(kind), "data": str(data)} if kind.startswith("text/"):
            return _decoded(data)
        case str() | list():
            return content_of(source).before()
        case _:
            return None


def readable(value: Any) -> str:
    """A text as it is, and anything else as JSON, without what is encrypted; null is nothing."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(_without_encrypted(value), ensure_ascii=False)


def _decoded(data: str) -> str | None:
    try:
        return base64.b64decode(data, validate=True).decode(errors="replace")
    except (binascii.Error, ValueError):
        return None


def _without_encrypted(value: Any) -> Any:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value).items()
        return {name: _without_encrypted(it) for name, it in members if not name.startswith(ENCRYPTED)}
    if isinstance(value, list):
        return [_without_encrypted(one) for one in cast("list[Any]", value)]
    return value
