"""What may be asked for besides a response or an item: the probabilities of its tokens; nothing else exists here."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import Query
from pydantic import BeforeValidator

from quern.api.shared.fields import LeftOut

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


def _known(names: Any) -> Any:
    """Names that are not known are left out."""
    if not isinstance(names, list):
        return names
    return [
        LeftOut(type=name) if isinstance(name, str) and name not in {LOGPROBS, *NEVER_PRESENT} else name
        for name in cast("list[Any]", names)
    ]


Includes = Annotated[list[str | LeftOut] | None, BeforeValidator(_known, json_schema_input_type=list[str] | None)]


def included(
    include: Annotated[list[str] | None, Query(description="Changes nothing here.")] = None,
    bracketed: Annotated[list[str] | None, Query(alias="include[]", include_in_schema=False)] = None,
) -> None:
    """The query parameter, in both of its spellings: probabilities are told once, with the answer, and not kept."""
