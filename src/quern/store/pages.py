"""Parts of long lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from quern.errors import InvalidRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a longer list; `has_more` says whether anything comes after its last item."""

    items: tuple[T, ...]
    has_more: bool


def page_of(rows: list[T], limit: int) -> Page[T]:
    """The page of `limit` rows, from those rows and one more where there is one."""
    return Page(items=tuple(rows[:limit]), has_more=len(rows) > limit)


def unknown_cursor(kind: str, after: str) -> InvalidRequest:
    """What to raise for a cursor that is not in the list."""
    return InvalidRequest(
        f"There is no {kind} {after!r} to go on after: it was deleted, or the value is not from this list. Start "
        f"again without `after`.",
        field="after",
    )
