"""A TCP proxy that cuts connections: what a laptop that changes its network does to a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class CuttingProxy:
    """Passes bytes on. Of each new connection the next of `allowances` says how many bytes of answers it lets through
    before both of its sockets are closed; once those are used up, all. `connections`: how many there were.
    """

    def __init__(self, target: str, *allowances: int) -> None:
        address = urlsplit(target)
        self._target = address.hostname, address.port
        self._allowances = list(allowances)
        self._open: set[asyncio.StreamWriter] = set()
        self.connections = 0

    def cut(self) -> None:
        """Close all that is open now."""
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        self.connections += 1
        allowed = self._allowances.pop(0) if self._allowances else None
        upstream_reader, upstream = await asyncio.open_connection(*self._target)
        both = {writer, upstream}
        self._open |= both
        try:
            passing = [_pass(reader, upstream, None), _pass(upstream_reader, writer, allowed)]
            tasks = [asyncio.ensure_future(one) for one in passing]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for one in both:
                one.transport.abort()
            self._open -= both


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowed: int | None) -> None:
    """Until the end, or until more came than is allowed."""
    while piece := await reader.read(65536):
        if allowed is not None:
            piece, allowed = piece[:allowed], allowed - len(piece)
        writer.write(piece)
        await writer.drain()
        if allowed is not None and allowed <= 0:
            return


@asynccontextmanager
async def cutting(target: str, *allowances: int) -> AsyncGenerator[tuple[CuttingProxy, str]]:
    """A proxy before a server, and its URL."""
    proxy = CuttingProxy(target, *allowances)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        proxy.cut()
        server.close()
