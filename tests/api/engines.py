"""Fake engines that say what a test wants."""

from __future__ import annotations

from typing import Any

from quern.engine.base import GenerateRequest
from quern.engine.fake import FakeEngine
from quern.prompt.codec import TextCodec


def saying(*texts: str, **options: Any) -> FakeEngine:
    """Answers with one text after the other, a byte at a time, then with the last one again."""
    left = list(texts)

    def reply(_request: GenerateRequest) -> bytes:
        return (left.pop(0) if len(left) > 1 else left[0]).encode()

    return FakeEngine(reply=reply, vocabulary_size=TextCodec.builtin().vocabulary_size, **options)
