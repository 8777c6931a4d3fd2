"""How many bytes of requests are worked on at once.

A body costs a multiple of its size while it is parsed and tokenised, and Python parses JSON under one lock. So large
bodies share one budget of bytes, first come first served, and are parsed one after the other in a thread.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quern.api.shared.errors import ErrorKind, Failure, StyleOf

SMALL = 64 * 2**10
"""Bytes. A body of no more costs next to nothing, so it never waits."""

MOST_WAIT_SECONDS = 30.0
RETRY_AFTER = 5
PLAIN = "identity"
MEMORY_IS_GIVEN_BACK_AFTER = 1.0
"""Seconds after a large body: what was made of it is gone by then."""

Result = TypeVar("Result")


class NoRoom(Exception):
    """A body waited for its bytes in vain."""


class BodyBudget:
    """Shares out the bytes. `most`: of all large bodies at once; a larger one than that takes all of it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._left = most
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="quern-bodies")
        self._trim: asyncio.TimerHandle | None = None

    @property
    def left(self) -> int:
        """Bytes that nobody has."""
        return self._left

    async def take(self, size: int) -> int:
        """Wait for so many bytes; returns what has to be given back. Raises NoRoom after a while."""
        size = min(size, self.most)
        if not self._waiting and size <= self._left:
            self._left -= size
            return size
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            async with asyncio.timeout(MOST_WAIT_SECONDS):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give_back(size)
            turn.cancel()
            self._serve()
            if isinstance(error, TimeoutError):
                raise NoRoom(
                    f"The server is busy with other large requests (setting server.body_bytes). Try again in "
                    f"{RETRY_AFTER} s."
                ) from None
            raise
        return size

    def give_back(self, size: int) -> None:
        """Let others have these bytes."""
        self._left += size
        self._serve()
        if self._trim is None:
            self._trim = asyncio.get_running_loop().call_later(MEMORY_IS_GIVEN_BACK_AFTER, self._give_memory_back)

    async def parsed(self, parse: Callable[[], Result]) -> Result:
        """What a function makes of a large body, in a thread, one body at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._parser, parse)

    async def encoded(self, request: Request, encode: Callable[[], Result]) -> Result:
        """What a function makes of a request's body, in a thread; of large bodies one at a time."""
        hold: _Hold = request.state.body_hold
        return await (self.parsed(encode) if hold.large else asyncio.to_thread(encode))

    def _serve(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.cancelled():
                if size > self._left:
                    return
                self._left -= size
                turn.set_result(None)
            self._waiting.popleft()

    def _give_memory_back(self) -> None:
        self._trim = None
        if _malloc_trim is not None:
            self._parser.submit(_malloc_trim, 0)


def _find_malloc_trim() -> Callable[[int], int] | None:
    """glibc keeps what was freed, unless it is asked for it; other C libraries have no such function."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None


_malloc_trim = _find_malloc_trim()


class BudgetedBodies:
    """Lets a body take its bytes of the budget once it is no small one, until it is answered or `release_body` is
    called. What comes packed takes all that it may become. At `streamed` paths what comes as it is takes none. Pure
    ASGI, so that streams pass untouched.
    """

    def __init__(
        self, app: ASGIApp, budget: BodyBudget, limit: int, style_of: StyleOf, streamed: Collection[str] = ()
    ) -> None:
        self._app = app
        self._streamed = streamed
        self._budget = budget
        self._limit = limit
        self._style_of = style_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        packed = is_packed(headers)
        if scope["path"] in self._streamed and not packed:
            await self._app(scope, receive, send)
            return
        hold = _Hold(self._budget, _expected(headers, self._limit, packed=packed), receive, send, packed=packed)
        scope.setdefault("state", {})["body_hold"] = hold
        try:
            await self._app(scope, hold.receive, hold.send)
        except NoRoom as error:
            failure = Failure(ErrorKind.OVERLOADED, str(error))
            retry = {"retry-after": str(RETRY_AFTER)}
            await self._style_of(scope["path"]).response(failure, headers=retry)(scope, receive, send)
        finally:
            hold.release()


def is_packed(headers: Headers) -> bool:
    """Whether a body has to be unpacked."""
    return headers.get("content-encoding", PLAIN) != PLAIN


def release_body(request: Request) -> None:
    """The request's body has become a prompt: what follows costs no memory in proportion to it."""
    hold: _Hold | None = getattr(request.state, "body_hold", None)
    if hold is not None:
        hold.release()


def _expected(headers: Headers, limit: int, *, packed: bool) -> int:
    """Bytes that a body will have at most. What is packed may become as large as it may be."""
    announced = headers.get("content-length", "")
    return min(int(announced), limit) if announced.isdecimal() and not packed else limit


class _Hold:
    def __init__(self, budget: BodyBudget, expected: int, receive: Receive, send: Send, *, packed: bool) -> None:
        self._budget = budget
        self._expected = expected
        self._receive = receive
        self._send = send
        self._received = 0
        self._packed = packed
        self._held = 0

    @property
    def large(self) -> bool:
        """Whether what is made of the body is made of one body at a time."""
        return self._received > SMALL or (self._packed and self._received > 0)

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self.large and not self._held:
            self._held = await self._budget.take(self._expected)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.release()
        await self._send(message)

    def release(self) -> None:
        if self._held > 0:
            self._budget.give_back(self._held)
        self._held = -1 if self._held else 0
