"""The body of a completion request.

Source: "POST /completion" in llama.cpp's tools/server/README.md; docs/api.md has the table of every field.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import Field, PlainValidator

from quern.api.llamacpp.generation_fields import GenerationFields, only
from quern.api.shared.fields import NoOp
from quern.api.shared.sampling_fields import MOST_CHOICES
from quern.errors import InvalidRequest
from quern.turns.tokens import EncodedPrompt, TextAndIds, TokenService

PROMPT_MEMBERS = ("prompt_string", "multimodal_data")


def _prompts(value: Any) -> tuple[TextAndIds, ...]:
    """Raises ValueError."""
    if isinstance(value, list) and value:
        items = cast("list[Any]", value)
        if any(isinstance(item, list | dict) for item in items) or all(isinstance(item, str) for item in items):
            return tuple(_prompt(item) for item in items)
    return (_prompt(value),)


def _prompt(value: Any) -> TextAndIds:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        if members.get("multimodal_data"):
            msg = "The model reads text only, so a prompt can't have multimodal_data. Send its text"
            raise ValueError(msg)
        value = members.get("prompt_string")
    if isinstance(value, str):
        return (value,)
    items = cast("list[Any]", value) if isinstance(value, list) else []
    if items and all(isinstance(item, str) or type(item) is int for item in items):
        return tuple(items)
    msg = "It must be a text, a list of token ids and texts, an object with a prompt_string, or a list of such prompts"
    raise ValueError(msg)


_Part = str | int
_Prompt = str | list[_Part] | dict[str, Any]
Prompts = Annotated[tuple[TextAndIds, ...], PlainValidator(_prompts, json_schema_input_type=_Prompt | list[_Prompt])]
"""One prompt or several: texts, token ids, or both in one list."""


class CompletionRequest(GenerationFields):
    """`POST /completion`."""

    prompt: Prompts
    other_n_predict: int | None = Field(default=None, ge=-2, alias="max_tokens", description="n_predict's other name.")
    penalize_nl: NoOp = None
    image_data: Annotated[Any, only([])] = None

    def answer_tokens(self) -> int:
        """Most tokens of the answer, by either name."""
        other = self.other_n_predict
        return other if other is not None and "n_predict" not in self.model_fields_set else self.n_predict

    def encode(self, tokens: TokenService) -> list[EncodedPrompt]:
        """The prompts' ids; call it in a thread. Raises InvalidRequest."""
        if len(self.prompt) > MOST_CHOICES:
            raise InvalidRequest(
                f"These are {len(self.prompt)} prompts, and one request gets {MOST_CHOICES} answers at most. Send "
                f"fewer at once.",
                field="prompt",
            )
        prompts = [tokens.encode_parts(parts) for parts in self.prompt]
        return [prompt.in_background() for prompt in prompts] if self.only_reads else prompts
