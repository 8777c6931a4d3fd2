"""What every source offers once it has been asked: one file of known size and checksum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from quern.models.partial import PartialFile


class SourceFailed(Exception):
    """A source can't deliver the file; `str()` is the reason, for a person. The next source may."""


class StaleBytes(SourceFailed):
    """What was fetched earlier does not fit what the source has now: worth one fresh start with the same source."""


class Upstream(Protocol):
    """A file at a source. `temporary_bytes`: disk that `fetch` needs for a while beside the file itself."""

    @property
    def size(self) -> int: ...

    @property
    def sha256(self) -> str: ...

    @property
    def temporary_bytes(self) -> int: ...

    def fetch(self, part: PartialFile, on_bytes: Callable[[int], None]) -> None:
        """Add the missing bytes to `part`, telling `on_bytes` how many of `size` there are.

        Raises SourceFailed; what came before that, or before Ctrl-C, stays in `part` for the next attempt.
        """
        ...
