"""What a dialect is: its routes, the paths that belong to it, how it tells errors. Each is declared in its own folder,
and http_app.py alone has the list of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from quern.api.shared.errors import ErrorStyle


@dataclass(frozen=True, slots=True)
class Dialect:
    """A way to speak to the server.

    `prefixes`: how its paths begin, also those of which no route is known: an unknown path and a body that is too large
    are refused in its style; `/` is that path alone. `quiet_paths`: requests that are only logged at the level debug.
    `open_paths`: with what is below them they show nobody's data, so they need no key, and a link on any web page may
    lead there. `streamed_paths`: their routes read bodies piece by piece, under bounds of their own, unless they come
    packed.
    """

    routers: tuple[APIRouter, ...]
    errors: ErrorStyle
    prefixes: tuple[str, ...]
    quiet_paths: frozenset[str] = frozenset()
    open_paths: tuple[str, ...] = ()
    streamed_paths: frozenset[str] = frozenset()


class Dialects:
    """All dialects of a server. `default_style`: how errors are told at paths that belong to none."""

    def __init__(self, dialects: Sequence[Dialect], default_style: ErrorStyle) -> None:
        self._default_style = default_style
        styles = [(prefix, dialect.errors) for dialect in dialects for prefix in dialect.prefixes]
        self._styles = sorted(styles, key=lambda style: len(style[0]), reverse=True)
        self.routers = [router for dialect in dialects for router in dialect.routers]
        self._open = frozenset(path for dialect in dialects for path in dialect.open_paths)
        self.streamed_paths = frozenset[str]().union(*(dialect.streamed_paths for dialect in dialects))
        self.quiet_paths = frozenset[str]().union(*(dialect.quiet_paths for dialect in dialects))

    def style_of(self, path: str) -> ErrorStyle:
        """How errors are told at a path: the dialect with the longest prefix of it decides."""
        owned = (
            style for prefix, style in self._styles if path == prefix or (prefix != "/" and path.startswith(prefix))
        )
        return next(owned, self._default_style)

    def is_open(self, path: str) -> bool:
        """Whether a path shows nobody's data."""
        beginnings = (path[:end] for end, character in enumerate(path) if character == "/" and end)
        return path in self._open or any(beginning in self._open for beginning in beginnings)
