"""How the long operations of this room tell somebody how far they are."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Hears about a running operation, in the thread that runs it.

    Both methods are called often while something is waited for. An exception raised by one of them ends the operation
    as Ctrl-C would: what was fetched stays and is continued later.
    """

    def advance(self, phase: str, done: int, total: int | None) -> None:
        """`done` of `total` bytes; a `phase` such as "Downloading qwen2.5-coder-0.5b" is one bar. Both can shrink."""
        ...

    def notice(self, message: str) -> None:
        """A sentence for a person: a source that is skipped, a file that is fetched again."""
        ...


def format_bytes(size: int) -> str:
    """Decimal units, as disks and hubs count: `491.4 MB`, `18.6 GB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
