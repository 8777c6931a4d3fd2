"""A conversation to token ids, such that no message can forge the structure around it.

A chat template joins contents and control tokens to one string, in which a content that says `<|im_end|>` looks like
the real thing, and one that says `|im_end|` may become it between two brackets of the template's. So not what is in
that string counts, but where it comes from: the template marks the special tokens that stand in its own source, as one
piece, and only those become tokens. Contents, and whatever is put together with them, are text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from quern.errors import InvalidRequest, ModelError
from quern.prompt.call_arguments import is_deeper
from quern.prompt.conversation import template_messages, template_tool
from quern.prompt.special_texts import SpecialTexts, unmarked, well_formed
from quern.prompt.template import MOST_OUTPUT, ChatTemplate
from quern.prompt.tokenizer import Tokenizer
from quern.types import Item, Message, Role, Tool, ToolCall, ToolResult

DEEPEST = 400
"""Objects and arrays in each other that are shown to a model; Python's own stack ends at a thousand."""


MOST_CHARACTERS = MOST_OUTPUT // 4


class ChatEncoder:
    """Renders conversations with a template and encodes them. Safe to use from several threads.

    The template has to mark the tokenizer's special tokens.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._ids = tokenizer.special.ids
        self._special = SpecialTexts(self._ids)
        self._text_tokens = SpecialTexts(tokenizer.special.user_defined)

    def encode(
        self,
        items: Sequence[Item],
        tools: Sequence[Tool] = (),
        opening: str = "",
        *,
        prefill: str = "",
        most: int | None = None,
    ) -> tuple[int, ...]:
        """Ids of the whole prompt, up to and including the opening of the assistant's next message.

        `prefill`: what the assistant has said of that message. `opening`: how it goes on, special tokens in it being
        tokens. `most`: tokens; a prompt that is longer by far is given up early. Raises InvalidRequest where the
        template refuses the conversation, ContextExceeded for what is given up, ModelError where the template fails.
        """
        begun = self._text_tokens.mark(well_formed(prefill)) + self._special.mark(opening)
        pieces = self._special.split(self._marked(items, tools, most) + begun)
        prompt, *texts = self._tokenizer.encode_many(pieces[::2], most)
        for special, text in zip(pieces[1::2], texts, strict=True):
            prompt.append(self._ids[special])
            prompt += text
        return tuple(prompt)

    def render(self, items: Sequence[Item], tools: Sequence[Tool] = (), most: int | None = None) -> str:
        """The prompt as text, for people: in it a special token and its mere text look the same. Raises the same."""
        return unmarked(self._marked(items, tools, most))

    def try_out(self) -> None:
        """Render a first conversation. Raises ModelError where the template can't do that, or puts special tokens
        together from pieces, so that they would not be taken for tokens.
        """
        texts = self._special.split(self._marked([Message(Role.USER, "Hello")], ()))[::2]
        if any(self._special.mark(text) != text for text in texts):
            raise ModelError(
                "The model's chat template puts special tokens together from pieces, which can't be told from text "
                "that looks the same. Use another file of the model, whose template has them in one piece."
            )

    def _marked(self, items: Sequence[Item], tools: Sequence[Tool], most: int | None = None) -> str:
        self._check_size([*map(text_of, items)], most)
        messages = _template_values(template_messages(items))
        for message in messages:
            if message["role"] == Role.ASSISTANT:
                # The model's own earlier prose may hold tokens such as <tool_call>, which it wrote as tokens.
                message["content"] = self._text_tokens.mark(message["content"])
        return self._template.render(messages, _template_values([template_tool(tool) for tool in tools]))

    def _check_size(self, texts: Sequence[str], most: int | None) -> None:
        """Before anything is made of the texts: a template costs a multiple of what it is given."""
        characters = sum(map(len, texts))
        if most is not None and characters > most:
            self._tokenizer.check_size(texts, most)
        if characters > MOST_CHARACTERS:
            raise InvalidRequest(
                f"This conversation has {characters} characters, and {MOST_CHARACTERS} are the most that a prompt is "
                f"made of. Shorten it, or start a new one."
            )


def text_of(item: Item) -> str:
    """What of an item is shown to the model, but for names."""
    match item:
        case Message(_, content):
            return content
        case ToolCall(_, _, arguments):
            return arguments
        case ToolResult(_, output):
            return output


def _template_values(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The values without lone surrogates, in members' names too. Raises InvalidRequest where they are too deep."""
    if is_deeper(values, DEEPEST):
        raise InvalidRequest(
            "The parameters of a tool are nested too deeply to be shown to the model. Send a flatter schema."
        )
    text = json.dumps(values, ensure_ascii=False)
    return values if well_formed(text) is text else json.loads(well_formed(text))
