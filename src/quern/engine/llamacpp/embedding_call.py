"""One embedding that a llama-server computes."""

from __future__ import annotations

from collections.abc import Sequence

from quern.engine.base import Vector
from quern.engine.llamacpp.client import LlamaServer


class EmbeddingCall:
    """Joins the `calls` that go on while it does. `over`: the server has ended it by itself.

    llama-server chooses the slot of an embedding and doesn't tell, so a call that was given up is known to be at an end
    when no more slots are at work than calls go on. A server that embeds does nothing else.
    """

    def __init__(self, server: LlamaServer, calls: set[EmbeddingCall]) -> None:
        self._server = server
        self._calls = calls
        self.over = False

    async def embed(self, ids: Sequence[int]) -> Vector:
        """Compute. Raises EngineFailed, and ConnectionError where the server can't be reached."""
        self._calls.add(self)
        try:
            vector = await self._server.embed(ids)
        finally:
            self._calls.discard(self)
        self.over = True
        return vector

    async def processing(self) -> bool:
        """Whether the server may still be at work on it. Raises ConnectionError where the server is gone."""
        return await self._server.busy_slots() > len(self._calls)

    def give_back(self) -> None:
        """Nothing to give back: llama-server keeps its slots to itself."""
