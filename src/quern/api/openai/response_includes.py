"""What may be asked for besides a response or an item: nothing of it exists here."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import Query
from pydantic import AfterValidator

from quern.errors import InvalidRequest

LOGPROBS = "message.output_text.logprobs"
NEVER_PRESENT = frozenset(
    {
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "reasoning.encrypted_content",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)
"""Values that ask for parts of items that this server never has."""


def _checked(names: Any) -> Any:
    """Raises ValueError."""
    for name in cast("list[str]", names or []):
        if name == LOGPROBS:
            raise ValueError("Responses don't tell probabilities; /v1/chat/completions does. Leave it out")
        if name not in NEVER_PRESENT:
            raise ValueError(f"There is no value {name!r}. Leave it out")
    return names


Includes = Annotated[list[str] | None, AfterValidator(_checked)]


def included(
    include: Annotated[list[str] | None, Query(description="Changes nothing here.")] = None,
    bracketed: Annotated[list[str] | None, Query(alias="include[]", include_in_schema=False)] = None,
) -> None:
    """The query parameter, in both of its spellings. Raises InvalidRequest."""
    try:
        _checked([*(include or []), *(bracketed or [])])
    except ValueError as error:
        raise InvalidRequest(f"The parameter include can't be used: {error}.", field="include") from error
