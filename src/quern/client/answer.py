"""An answer while it is being written."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Self

import httpx2

from quern.client.failures import translated, unexpected

HEADER_START = "conversation_id:"
HEADER_END = "\n---\n"
HEADER_LIMIT = 256


class AnswerStream:
    """An iterator over the text of an answer, in pieces as they arrive, never splitting a character.

    `conversation_id` is the conversation that the answer belongs to; None for a one-shot answer. Closing it, or leaving
    it as a context manager, closes the connection, which is how a turn is given up. Iterating raises AnswerBroken where
    the connection ends before the answer does.
    """

    def __init__(self, response: httpx2.Response, texts: Generator[str], conversation_id: str | None) -> None:
        self.conversation_id = conversation_id
        self._response = response
        self._texts = texts

    @classmethod
    def of(cls, response: httpx2.Response, server: str, conversation_id: str | None = None) -> Self:
        """The body is the answer's text and nothing else."""
        return cls(response, _texts(response, server), conversation_id)

    @classmethod
    def of_new_conversation(cls, response: httpx2.Response, server: str) -> Self:
        """The body begins with `conversation_id:<UUID>\\n---\\n`: wait for that and take it off the text.

        Raises ServerRefused where the body begins with something else.
        """
        texts = _texts(response, server)
        header, rest = _split_header(texts)
        if not header.startswith(HEADER_START):
            response.close()
            raise unexpected(response)
        return cls(response, _preceded(rest, texts), header.removeprefix(HEADER_START))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._texts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. May be called twice."""
        self._texts.close()
        self._response.close()


def _texts(response: httpx2.Response, server: str) -> Generator[str]:
    response.encoding = "utf-8"
    with translated(server, response.headers.get("x-request-id")):
        yield from response.iter_text()


def _split_header(texts: Generator[str]) -> tuple[str, str]:
    """What stands before the header's end and what follows it; nothing and everything where there is no header."""
    text = ""
    for piece in texts:
        text += piece
        if HEADER_END in text or len(text) > HEADER_LIMIT:
            break
    header, end, rest = text.partition(HEADER_END)
    return (header, rest) if end else ("", text)


def _preceded(first: str, others: Generator[str]) -> Generator[str]:
    if first:
        yield first
    yield from others
