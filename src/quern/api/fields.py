"""What the fields of every dialect's requests have in common."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

MOST_STOPS = 16


class Strict(BaseModel):
    """An object of a request: unknown members are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


NoOp = Annotated[Any, Field(json_schema_extra={"no_op": True})]
"""A field that these APIs know and that changes nothing here; docs/api.md lists them."""


def type_of(value: Any) -> str | None:
    """The member `type` of a JSON object; None where there is no such text."""
    kind = cast("dict[str, Any]", value).get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None
