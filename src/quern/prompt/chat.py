"""A conversation to token ids, such that no message can forge the structure around it.

A chat template joins contents and control tokens to one string, in which a content that says `<|im_end|>` looks like
the real thing. So every special token's text in a content is broken, before rendering, by a mark that nobody can
guess; what the rendered string still holds whole is the template's own. The mark is removed from the text between.
(No token is pieced together at a content's edge: special tokens begin with `<`, have no other, and templates put whole
tokens and line breaks around contents.)
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from quern.errors import InvalidRequest
from quern.prompt.conversation import template_messages, template_tool
from quern.prompt.template import ChatTemplate
from quern.prompt.tokenizer import Tokenizer
from quern.types import Item, Role, Tool

MARK_LENGTH = 8
_PRIVATE_USE = range(0xE000, 0xF900)

Value = TypeVar("Value")


class ChatEncoder:
    """Renders conversations with a template and encodes them. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._template = template
        special = tokenizer.special
        self._ids: Mapping[str, int] = {**special.control, **special.user_defined}
        self._special = _any_of(self._ids)
        self._begins_control = _beginning_of(special.control)
        self._begins_special = _beginning_of(self._ids)
        self._mark = "".join(chr(secrets.choice(_PRIVATE_USE)) for _ in range(MARK_LENGTH))

    def encode(self, items: Sequence[Item], tools: Sequence[Tool] = (), opening: str = "") -> tuple[int, ...]:
        """Ids of the whole prompt, up to and including the opening of the assistant's next message.

        `opening`: how that message begins, special tokens in it being tokens. Raises InvalidRequest where the template
        refuses the conversation, ModelError where the template fails.
        """
        pieces = self._special.split(self._marked(items, tools) + opening)
        prompt, *texts = self._tokenizer.encode_many([piece.replace(self._mark, "") for piece in pieces[::2]])
        for special, text in zip(pieces[1::2], texts, strict=True):
            prompt.append(self._ids[special])
            prompt += text
        return tuple(prompt)

    def render(self, items: Sequence[Item], tools: Sequence[Tool] = ()) -> str:
        """The prompt as text, for people: in it a special token and its mere text look the same."""
        return self._marked(items, tools).replace(self._mark, "")

    def _marked(self, items: Sequence[Item], tools: Sequence[Tool]) -> str:
        messages = template_messages(items)
        shown_tools = [template_tool(tool) for tool in tools]
        try:
            messages = [self._broken_message(message) for message in messages]
            shown_tools = [self._broken(tool, self._begins_special) for tool in shown_tools]
        except RecursionError as error:
            raise InvalidRequest(
                "The parameters of a tool, or the arguments of a call, are nested too deeply to be shown to the model. "
                "Send a flatter schema, or leave that call out."
            ) from error
        return self._template.render(messages, shown_tools)

    def _broken_message(self, message: dict[str, Any]) -> dict[str, Any]:
        broken = self._broken(message, self._begins_special)
        if message["role"] == Role.ASSISTANT:
            # The model's own earlier prose may hold tokens such as <tool_call>, which it wrote as tokens.
            broken["content"] = self._broken(message["content"], self._begins_control)
        return broken

    def _broken(self, value: Value, pattern: re.Pattern[str]) -> Value:
        """`value`, as JSON has it, with every special token's text in it broken, in the names of members too."""
        if isinstance(value, str):
            return cast("Value", pattern.sub(rf"\g<0>{self._mark}", value))
        if isinstance(value, dict):
            members = cast("dict[str, Any]", value).items()
            return cast("Value", {self._broken(name, pattern): self._broken(item, pattern) for name, item in members})
        if isinstance(value, list):
            return cast("Value", [self._broken(item, pattern) for item in cast("list[Any]", value)])
        return value


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches the longest of the texts, as a group, so that `split` keeps it."""
    return re.compile(f"({_alternatives(texts)})")


def _beginning_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches the first character of each occurrence, also of occurrences that overlap."""
    return re.compile(f"(?={_alternatives(texts)}).", re.DOTALL)


def _alternatives(texts: Iterable[str]) -> str:
    # A token of one character can't be broken, so its text is never taken for it.
    breakable = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    return "|".join(map(re.escape, breakable)) or "(?!)"
