"""A conversation's shown path as Markdown. Source of the rules about code fences: CommonMark 0.31.2, section 4.5."""

from __future__ import annotations

import re
from collections.abc import Iterable

from quern.records import Conversation
from quern.types import Item, Message, Role, ToolCall, ToolResult

HEADINGS = {Role.SYSTEM: "System", Role.USER: "User", Role.ASSISTANT: "Assistant", Role.TOOL: "Tool"}
UNTITLED = "Conversation"
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)", re.DOTALL)
_RUN = re.compile("`+")


def markdown(conversation: Conversation, items: Iterable[Item]) -> str:
    """The title, then each message below a heading with its role; calls and results as blocks of code. Text is as it
    was, but that a block of code which is not closed is.
    """
    title = conversation.title or UNTITLED
    return "\n\n".join([f"# {title}", *map(_section, items)]) + "\n"


def _section(item: Item) -> str:
    match item:
        case Message(role, content):
            return f"## {HEADINGS[role]}\n\n{closed(content)}"
        case ToolCall(_, name, arguments):
            return f"## {HEADINGS[Role.ASSISTANT]} calls `{name}`\n\n{_block(arguments, 'json')}"
        case ToolResult(_, output):
            return f"## {HEADINGS[Role.TOOL]}\n\n{_block(output)}"


def closed(text: str) -> str:
    """The text, with the fence that closes its last block of code where that is missing."""
    opened: str | None = None
    for line in text.split("\n"):
        found = _FENCE.fullmatch(line.rstrip("\r"))
        if found is None:
            continue
        fence, rest = found[1], found[2]
        if opened is None:
            opened = None if fence[0] == "`" and "`" in rest else fence
        elif fence[0] == opened[0] and len(fence) >= len(opened) and not rest.strip(" \t"):
            opened = None
    return text if opened is None else f"{text.removesuffix(chr(10))}\n{opened}"


def _block(text: str, language: str = "") -> str:
    fence = "`" * max(3, 1 + max(map(len, _RUN.findall(text)), default=0))
    return f"{fence}{language}\n{text.removesuffix(chr(10))}\n{fence}"
