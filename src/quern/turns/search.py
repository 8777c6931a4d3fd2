"""Searching what was said: words in, messages out, with the piece of each in which they are."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from quern.errors import InvalidRequest
from quern.records import Page, page_of
from quern.store.schema import storable
from quern.store.search import Found, SearchStore

LONGEST_QUERY = 200
"""Characters."""

BEFORE, LONGEST_SNIPPET = 60, 240
"""Characters of a snippet before the first word in it, and in all."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of a text. `offset`: where in the text it begins; `matches`: where words are in it and how long they are
    there. All in characters (code points).
    """

    text: str
    offset: int
    matches: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that has all of the words."""

    found: Found
    snippet: Snippet


class SearchService:
    """Searches an owner's conversations; another owner's don't exist."""

    def __init__(self, store: SearchStore) -> None:
        self._store = store

    async def search(self, owner: str, query: str, *, limit: int, after: str | None) -> Page[Hit]:
        """Messages with all of the query's words, the newest first. Raises InvalidRequest for a query without any, and
        where `after` names no item.
        """
        words = list(dict.fromkeys(storable(query).split()))
        if not words:
            raise InvalidRequest("The query is empty. Send some text to look for, in q.", field="q")
        found = await self._store.find(owner, words, limit=limit + 1, after=after)
        return page_of([await self._hit(one, words) for one in found], limit)

    @staticmethod
    async def _hit(found: Found, words: Sequence[str]) -> Hit:
        content = getattr(found.item.item, "content", "")
        return Hit(found, await asyncio.to_thread(snippet_of, content, words))


def snippet_of(text: str, words: Sequence[str]) -> Snippet:
    """The piece of a text that begins a little before the first of the words. Takes milliseconds for a megabyte."""
    longest_first = sorted(words, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
    first = pattern.search(text)
    start = max(0, first.start() - BEFORE) if first is not None else 0
    piece = text[start : start + LONGEST_SNIPPET]
    return Snippet(piece, start, tuple((one.start(), len(one[0])) for one in pattern.finditer(piece)))
