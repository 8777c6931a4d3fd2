"""Tokens' probabilities, told with the text that they are part of."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Sequence

from quern.engine.base import Logprob
from quern.turns.events import TokenLogprob


class AlignedLogprobs:
    """Holds probabilities back as long as the text of their tokens is held back."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._held: deque[tuple[int, TokenLogprob]] = deque()
        # Decodes as the text's own decoder does, so that both count the same characters, U+FFFD too.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._told_characters = 0
        self._shown_characters = 0

    def push(self, ids: Sequence[int], logprobs: Sequence[Logprob] | None) -> None:
        """Take what was drawn. Tokens without probabilities are not told, but their text counts."""
        for index, token_id in enumerate(ids):
            token = self._token_bytes(token_id)
            if logprobs is not None:
                self._held.append((self._told_characters, self._told(token, logprobs[index])))
            self._told_characters += len(self._decoder.decode(token))

    def _told(self, token: bytes, logprob: Logprob) -> TokenLogprob:
        top = tuple(TokenLogprob(self._token_bytes(other), value) for other, value in logprob.top)
        return TokenLogprob(token, logprob.value, top)

    def shown(self, text: str) -> tuple[TokenLogprob, ...]:
        """This text is out: the tokens that begin in it or before it."""
        self._shown_characters += len(text)
        ready: list[TokenLogprob] = []
        while self._held and self._held[0][0] < self._shown_characters:
            ready.append(self._held.popleft()[1])
        return tuple(ready)
