"""Several servers as one source of completions: each request goes to one, and to another where that one is lost."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import structlog

from quern.engine.completions.client import Accepted, CompletionServer
from quern.engine.completions.request import Asked
from quern.engine.completions.stream import Generated, Part
from quern.engine.remote.replicas import Replicas
from quern.errors import ServerLost

log = structlog.get_logger(__name__)

SESSION_HEADER = "x-session-id"
"""By which routers behind a server keep a conversation's turns together too."""
NONE_LEFT = "None of the servers in engine.remote.urls can be reached."


class Fleet:
    """`servers` by number, as `replicas` choose them; `urls` are for the log."""

    def __init__(self, servers: Sequence[CompletionServer], urls: Sequence[str], replicas: Replicas) -> None:
        self._servers = servers
        self._urls = urls
        self._replicas = replicas

    async def complete(self, asked: Asked) -> AsyncGenerator[Accepted | Part]:
        """See `CompletionSource.complete`. A server that is lost before it has written anything is replaced by another
        one, and so is one that is lost later where the rest may be asked for anew. Each is tried once.
        """
        shown, tried, accepted = list[int](), set[int](), False
        lost: ServerLost | ConnectionError = ConnectionError(NONE_LEFT)
        while True:
            rest = asked.after(tuple(shown)) if shown else asked
            choice = self._replicas.choose(rest.request.prompt, rest.request.cache_salt, time.monotonic(), tried)
            if choice is None:
                raise lost
            tried.add(choice.index)
            try:
                headers = {SESSION_HEADER: choice.session}
                async with aclosing(self._servers[choice.index].complete(rest, headers)) as parts:
                    async for part in parts:
                        if isinstance(part, Generated):
                            shown.extend(part.ids)
                        if not (accepted and isinstance(part, Accepted)):
                            yield part
                        accepted = accepted or isinstance(part, Accepted)
                self._replicas.succeeded(choice.index)
            except (ServerLost, ConnectionError) as error:
                self._replicas.failed(choice.index, time.monotonic())
                log.warning("remote_server_failed", url=self._urls[choice.index], error=str(error), tokens=len(shown))
                if shown and not asked.goes_on:
                    raise
                lost = error
            else:
                return
            finally:
                self._replicas.ended(choice.index)
