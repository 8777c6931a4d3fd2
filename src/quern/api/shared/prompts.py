"""Texts and token ids as prompts that are continued, and gaps as prompts that are filled.

Text is text: where it says `<|im_end|>`, no token comes of it. The one exception is a text that is a whole frame for
filling in the middle, as many editor plug-ins write it by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import PlainValidator

from quern.engine.base import Priority
from quern.prompt.fim import Gap
from quern.prompt.prompt import Prompt
from quern.turns.preparation import check_ids
from quern.turns.request import TokenInput

TextOrIds = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt for the engine, and its text for people. `gap`: the answer stands between a prefix and a suffix."""

    text: str
    input: TokenInput
    gap: bool = False

    @property
    def priority(self) -> Priority:
        """Somebody who types waits for a gap to be filled."""
        return Priority.INTERACTIVE if self.gap else Priority.NORMAL


def encode_prompt(prompt: Prompt, given: TextOrIds) -> EncodedPrompt:
    """A prompt to continue. Takes milliseconds, a long one some hundreds, so call it in a thread.

    Raises InvalidRequest for ids that the model doesn't have.
    """
    if not isinstance(given, str):
        check_ids(given, prompt.vocabulary_size, "prompt")
        return EncodedPrompt(prompt.tokenizer.decode(given), TokenInput(given))
    gap = Gap.parse(given) if prompt.gaps.supported else None
    if gap is not None:
        return encode_gap(prompt, gap, given)
    return EncodedPrompt(given, TokenInput(tuple(prompt.tokenizer.encode(given))))


def encode_gap(prompt: Prompt, gap: Gap, text: str) -> EncodedPrompt:
    """A gap to fill; `text` is what people take for the prompt. Takes as long, so call it in a thread.

    Raises InvalidRequest where the model can't fill gaps.
    """
    return EncodedPrompt(text, TokenInput(prompt.gaps.encode(gap), prompt.gaps.stop_token_ids), gap=True)


def _listed(value: Any) -> tuple[TextOrIds, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        items = cast("list[Any]", value)
        if all(isinstance(item, str) for item in items):
            return tuple(items)
        if _are_ids(items):
            return (tuple(items),)
        if all(isinstance(item, list) and _are_ids(cast("list[Any]", item)) for item in items):
            return tuple(tuple(item) for item in items)
    msg = "It must be a string, a list of strings, a list of token ids, or a list of such lists"
    raise ValueError(msg)


def _are_ids(items: Sequence[Any]) -> bool:
    return all(type(item) is int for item in items)


Prompts = Annotated[
    tuple[TextOrIds, ...],
    PlainValidator(_listed, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]
"""One prompt or several: texts, or token ids."""
