"""Token ids to text while they arrive: whole characters only, and nothing of a stop string ever shown."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence

from quern.errors import InvalidRequest


class IncrementalText:
    """The text of one answer, given out as early as it is certain.

    Bytes of an unfinished character and characters that may still begin a stop string are held back; everything else
    is returned at once. However the ids are split over calls, the returned pieces join to the same text. Bytes that
    are no UTF-8 become U+FFFD. Of several stop strings the one that is complete first counts, and of those that are
    complete at the same character the longest.

    Raises InvalidRequest for an empty stop string.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stops: Sequence[str] = ()) -> None:
        if not all(stops):
            raise InvalidRequest("A stop string can't be empty. Leave it out, or give at least one character.", "stop")
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._matchers = [_StopMatcher(stop) for stop in stops]
        self._held = ""
        self._stopped_by: str | None = None

    @property
    def stopped_by(self) -> str | None:
        """The stop string that was found, if any: the text ends before it, and nothing more will be returned."""
        return self._stopped_by

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._stopped_by is not None

    def push(self, ids: Iterable[int]) -> str:
        """Take the next ids; return the text that is now certain."""
        return self._release(self._decoder.decode(b"".join(map(self._token_bytes, ids))))

    def finish(self) -> str:
        """End of the answer: return what was held back, an unfinished character as U+FFFD."""
        text = self._release(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        if not self._matchers:
            return text
        known = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            complete = [matcher.stop for matcher in self._matchers if matcher.feed(character)]
            if complete:
                self._stopped_by = max(complete, key=len)
                self._held = ""
                return known[: end - len(self._stopped_by)]
        certain = len(known) - max(matcher.matched for matcher in self._matchers)
        self._held = known[certain:]
        return known[:certain]


class _StopMatcher:
    """Finds one string in a stream, a character at a time, in linear time (Knuth, Morris and Pratt)."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._fallback = [0]
        for character in stop[1:]:
            self._fallback.append(self._extend(self._fallback[-1], character))

    def feed(self, character: str) -> bool:
        """Whether the stop string is complete with this character. `matched`: how much of its beginning is there."""
        self.matched = self._extend(self.matched, character)
        return self.matched == len(self.stop)

    def _extend(self, matched: int, character: str) -> int:
        while matched and self.stop[matched] != character:
            matched = self._fallback[matched - 1]
        return matched + (self.stop[matched] == character)
