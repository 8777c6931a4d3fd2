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

from quern.prompt.template import ChatTemplate
from quern.prompt.tokenizer import Tokenizer
from quern.types import Message, Role

MARK_LENGTH = 8
_PRIVATE_USE = range(0xE000, 0xF900)


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

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of the whole prompt, up to and including the opening of the assistant's next message.

        Raises InvalidRequest where the template refuses the messages, ModelError where the template fails.
        """
        rendered = self._template.render(
            [{"role": message.role.value, "content": self._broken(message)} for message in messages]
        )
        pieces = self._special.split(rendered)
        prompt, *texts = self._tokenizer.encode_many([piece.replace(self._mark, "") for piece in pieces[::2]])
        for special, text in zip(pieces[1::2], texts, strict=True):
            prompt.append(self._ids[special])
            prompt += text
        return tuple(prompt)

    def _broken(self, message: Message) -> str:
        # The model's own earlier answers may hold tokens such as <tool_call>, which it wrote as tokens.
        pattern = self._begins_control if message.role is Role.ASSISTANT else self._begins_special
        return pattern.sub(rf"\g<0>{self._mark}", message.content)


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
