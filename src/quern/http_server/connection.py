"""A connection's life: its place among the others, how long it may take, and how it ends.

A refusal closes the connection gently: what the client still sends is read and dropped for a while, or the reset that
an unread byte causes would take the answer with it. What follows a request that is being answered is refused only after
the answer.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quern.http_server import refusals
from quern.http_server.connections import Connections, Place
from quern.http_server.control_socket import LOCAL, peer_is_trusted
from quern.http_server.cycle import RequestCycle
from quern.http_server.refusals import Refusal

if TYPE_CHECKING:
    from quern.http_server.server import HttpConfig

log = structlog.get_logger(__name__)

HALF_CLOSED_SECONDS = 0.25
"""Who closes the sending half has so long to be answered. A client that has gone looks the same."""
LINGER_SECONDS, LINGER_SILENCE_SECONDS, LINGER_BYTES = 30.0, 2.0, 64 * 2**20
"""What a refused client still sends is dropped: so long in all and without a byte (nginx: 30 and 5), and so much."""


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol with an end to everything. Which part of a request has come is the subclass's to say:

    `_quiet`: nothing of a request that isn't complete; `_in_head`, `_in_body`: some of its headers, some of its body.
    """

    def __init__(
        self,
        config: HttpConfig,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        connections: Connections | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.local: bool = LOCAL in app_state  # the control socket's
        self._application: Any = config.loaded_app  # pyright: ignore[reportUnknownMemberType]
        self._settings = config.settings
        self._all = connections or config.connections
        self._place: Place | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = True  # nothing of a request that isn't complete has come
        self._in_head = self._in_body = False
        self._began = self._heard = 0.0
        self._received = 0
        self._active: RequestCycle | None = None
        self._refusal: Refusal | None = None
        self._closing = self._lingering = self._half_closed = False

    # Its place

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A place among the connections, or a refusal."""
        super().connection_made(transport)
        if self.local and not peer_is_trusted(transport.get_extra_info("socket")):
            self._stop(refusals.NOT_THIS_USER)
            return
        admitted = self._all.admit(self.client[0] if self.client else "")
        if isinstance(admitted, Refusal):
            self._stop(admitted)
            return
        self._place = admitted
        self._wait_for_request()
        self._stay_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._leave()
        self._stop_clock()
        self._unset_keepalive_if_required()
        self._all.closed(self)
        if self._active is not None and not self._active.response_complete:
            self._active.disconnected = True
            self._active.message_event.set()
        super().connection_lost(exc)

    def _leave(self) -> None:
        if self._place is not None:
            self._all.leave(self._place, self)
            self._place = None

    def _wait_for_request(self) -> None:
        if self._place is not None:
            self._place.waiting[self] = time.monotonic()

    def _start(self, cycle: RequestCycle) -> None:
        self._active = cycle
        if self._place is not None:
            self._place.waiting.pop(self, None)
        self._start_asgi_task(cycle, self._application)

    def _stay_idle(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def give_way(self) -> None:
        """Close, since a newer connection needs the place."""
        self._leave()
        if self._quiet:
            self.transport.close()
        else:
            self._stop(refusals.GAVE_WAY)

    def cut_off(self) -> None:
        """Close at once."""
        self._all.closed(self)
        self.transport.abort()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client has gone, or it has said all that it wants to say: only an answer tells which."""
        cycle = self._active
        if self._closing or not self._quiet or cycle is None or cycle.response_started:
            return None
        self._half_closed = True
        self.cycle.keep_alive = False
        self.loop.call_later(HALF_CLOSED_SECONDS, self.transport.close)
        return True

    # Time

    def _seconds_left(self) -> float:
        now = self.loop.time()
        if not self._in_body:
            return self._began + self._settings.header_seconds - now
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:  # it is we who let it wait
            self._began = self._heard = now
            self._received = 0
        pause = self._settings.body_seconds
        expected = self._received / self._settings.min_body_rate
        return min(self._heard, self._began + expected) + pause - now

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        left = self._seconds_left()
        if left > 0:
            self._timer = self.loop.call_later(left, self._look)
        elif self._in_body:
            self._stop(refusals.body_too_slow(self._settings.body_seconds, self._settings.min_body_rate))
        elif self._in_head:
            self._stop(refusals.headers_too_slow(self._settings.header_seconds))
        else:  # empty lines
            self.transport.close()

    # Ends

    def _stop(self, refusal: Refusal) -> None:
        """Refuse what comes now, and all that follows it, once what came before it is answered."""
        self._refusal = refusal
        host = self.client[0] if self.client else ""
        log.info("connection_refused", status=refusal.status, code=refusal.code, client=host, reason=refusal.reason)
        if self._active is None or self._active.response_complete:
            self._answer_refusal(refusal)
        elif not self._in_body:
            pass  # `on_response_complete` goes on
        elif self.pipeline:
            self.pipeline.popleft()  # the request whose body can't be had
        else:
            self._active.disconnected = True
            self._active.message_event.set()
            if self._active.response_started:
                self.transport.close()
            else:
                self._answer_refusal(refusal)

    def on_response_complete(self) -> None:
        """The next request, the refusal of what followed, or idleness."""
        self.server_state.total_requests += 1
        if self._closing or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, _ = self.pipeline.pop()
            self._start(cast("RequestCycle", cycle))
        elif self._refusal is not None:
            self._answer_refusal(self._refusal)
        else:
            self._wait_for_request()
            if self._quiet:
                self._stay_idle()

    def shutdown(self) -> None:
        """The server is to exit: close now, or after the last answer."""
        if self._closing or self._active is None or self._active.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def _answer_refusal(self, refusal: Refusal) -> None:
        if not self.transport.is_closing():
            self.transport.write(refusal.response(self.server_state.default_headers))
            self._close_gently()

    def _on_close(self, unread: bool) -> None:
        if unread:
            self._close_gently()
        else:
            self.transport.close()

    def _close_gently(self) -> None:
        """Close the sending half, and drop what the client still sends until it has read the answer and closes."""
        self._closing = True
        self._stop_clock()
        self._unset_keepalive_if_required()
        if self._half_closed or self.transport.is_closing():
            self.transport.close()
            return
        self._all.linger(self)
        self._lingering = True
        self.transport.write_eof()
        self.flow.resume_reading()
        self._began = self._heard = self.loop.time()
        self._received = 0
        self._timer = self.loop.call_later(LINGER_SILENCE_SECONDS, self._end_lingering)

    def _drop(self, data: bytes) -> None:
        self._heard = self.loop.time()
        self._received += len(data)
        if self._lingering and self._received > LINGER_BYTES:
            self.transport.abort()

    def _end_lingering(self) -> None:
        now = self.loop.time()
        left = min(self._heard + LINGER_SILENCE_SECONDS, self._began + LINGER_SECONDS) - now
        if left > 0:
            self._timer = self.loop.call_later(left, self._end_lingering)
        else:
            self.transport.abort()
