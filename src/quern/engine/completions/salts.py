"""Under which salts a server keeps its cache apart. Pure, but for a random beginning.

A server can't be told to forget: what was cached under a salt stays until its room is needed, but nobody finds it who
has another one. So where a conversation is deleted, its owner's salt becomes another one: what was cached for the owner
is computed again, once. And nobody else who uses the server can guess a salt, or has it after us.
"""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from collections.abc import Set

from quern.engine.base import GenerateRequest

MOST_TAGS = 50_000
"""Whose salts are remembered; a cache has forgotten older ones long since."""


class Salts:
    """For one life of an engine."""

    def __init__(self) -> None:
        self._nonce = secrets.token_urlsafe(24)
        self._changes = Counter[str]()
        self._used: OrderedDict[str, str] = OrderedDict()

    def of(self, request: GenerateRequest) -> str:
        """What the server gets as the request's salt."""
        salt, tag = request.cache_salt, request.cache_tag
        if tag:
            self._used[tag] = salt
            self._used.move_to_end(tag)
            if len(self._used) > MOST_TAGS:
                self._used.popitem(last=False)
        return f"{self._nonce}.{self._changes[salt]}.{salt}"

    def forget(self, tags: Set[str]) -> None:
        """Nothing is found any more of what was cached for these tags."""
        self._changes.update({self._used.pop(tag) for tag in tags if tag in self._used})
