"""A connection: uvicorn's protocol around httptools, with bounds on everything that comes before ASGI has a request.

llhttp (httptools' parser) refuses what is no HTTP; what it leaves open is decided here:

- An Upgrade is ignored, whatever it asks for, and the body that came with it is read. llhttp takes what follows such a
  request's headers for another protocol's, so the headers are parsed a second time, without it.
- The bytes and the number of headers, the time until they are complete, the pauses and the rate of a body.
- What follows a request that is being answered is refused only after the answer.
- A refusal closes the connection gently: what the client still sends is read and dropped for a while, or the reset
  that an unread byte causes would take the answer with it.
"""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from typing import TYPE_CHECKING, Any, cast

import httptools
import structlog
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quern.http_server import refusals
from quern.http_server.connections import LINGERING_AT_MOST, Place
from quern.http_server.cycle import RequestCycle
from quern.http_server.refusals import Refusal

if TYPE_CHECKING:
    from quern.http_server.server import HttpConfig

log = structlog.get_logger(__name__)

AHEAD_AT_MOST = 64
"""Requests that may be sent ahead of the answer to the one before them."""
HALF_CLOSED_SECONDS = 0.25
"""Who closes the sending half has so long to be answered. A client that has gone looks the same."""
LINGER_SECONDS, LINGER_SILENCE_SECONDS, LINGER_BYTES = 30.0, 2.0, 64 * 2**20
"""How long what a refused client still sends is dropped: in all, and without a byte (nginx has 30 and 5), and how much."""
SPOKEN_VERSIONS = frozenset({"1.0", "1.1"})
LOOKED_AT = frozenset({b"expect", b"host", b"transfer-encoding"})


class _Stopped(Exception):
    """Raised through the parser, which stops it; why is in `_refusal`."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: HttpConfig,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._application: Any = config.loaded_app  # pyright: ignore[reportUnknownMemberType]
        self._settings = config.settings
        self._all = config.connections
        self.url = b""
        self._place: Place | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = True  # nothing of a request that isn't complete has come
        self._in_head = self._in_body = False
        self._began = self._heard = 0.0
        self._received = self._size = self._unfinished = self._piece = 0
        self._upgrade: list[tuple[bytes, bytes]] = []
        self._active: RequestCycle | None = None
        self._refusal: Refusal | None = None
        self._closing = self._lingering = self._half_closed = False

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A place among the connections, or a refusal."""
        super().connection_made(transport)
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
        if self._lingering:
            self._all.lingering -= 1
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

    def _stay_idle(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def give_way(self) -> None:
        """Close, since a newer connection needs the place."""
        self._leave()
        if self._quiet:
            self.transport.close()
        else:
            self._stop(refusals.gave_way())

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client has gone, or it has said all that it wants to say: only an answer tells which."""
        cycle = self._active
        if self._closing or not self._quiet or cycle is None or cycle.response_started:
            return None
        self._half_closed = True
        self.cycle.keep_alive = False
        self.loop.call_later(HALF_CLOSED_SECONDS, self.transport.close)
        return True

    # Bytes

    def data_received(self, data: bytes) -> None:
        """Parse, count, and look at the clock."""
        if self._closing or self._refusal is not None:
            self._drop(data)
            return
        self._unset_keepalive_if_required()
        if self._quiet:
            self._quiet = False
            self._began = self.loop.time()
        self._parse(data)
        if self._closing:
            return
        if self._quiet or self._refusal is not None:
            self._stop_clock()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._seconds_left(), self._look)

    def _parse(self, data: bytes) -> None:
        while data:
            self._piece = len(data)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                continue
            except httptools.HttpParserError as error:
                self._stop(self._refusal or refusals.malformed(str(error), data))
            else:
                self._check_unfinished(len(data))
            return

    def _check_unfinished(self, size: int) -> None:
        """What brings neither a whole header nor a part of a body: the parser may keep it, or read it for ever."""
        self._unfinished += size
        if not self._quiet and self._unfinished > self._settings.max_header_bytes:
            self._stop(refusals.headers_too_large(self._settings.max_header_bytes))

    def _head_without_upgrade(self) -> bytes:
        self._upgrade = [header for header in self.headers if header[0] == b"upgrade"]
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        method, version = self.scope["method"].encode(), self.scope["http_version"].encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(kept))

    # The parser's callbacks

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self._quiet:  # behind another one in the same piece
            self._quiet = False
            self._began = self.loop.time()
        self._in_head = True
        self._size = 0
        self._unfinished = -self._piece  # what comes before it in the piece is not its own

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self.url += url
        if len(self.url) > self._settings.max_header_bytes:
            self._halt(refusals.url_too_long(self._settings.max_header_bytes))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what follows a body in chunks is counted and dropped."""
        self._size += len(name) + len(value) + 4
        if self._size > self._settings.max_header_bytes:
            self._halt(refusals.headers_too_large(self._settings.max_header_bytes))
        if not self._in_head:
            return
        name = name.lower()
        if name in LOOKED_AT:
            self._look_at(name, value)
        self.headers.append((name, value))
        if len(self.headers) > self._settings.max_headers:
            self._halt(refusals.too_many_headers(self._settings.max_headers))

    def _look_at(self, name: bytes, value: bytes) -> None:
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            self._halt(refusals.transfer_coding(value))
        elif name == b"host" and any(known == b"host" for known, _ in self.headers):
            self._halt(refusals.malformed("it has two Host headers"))

    def on_headers_complete(self) -> None:
        """A request for ASGI, whose body is still to come."""
        version, method = self.parser.get_http_version(), self.parser.get_method()
        self.scope["method"] = method.decode("ascii")
        self.scope["http_version"] = version
        if version not in SPOKEN_VERSIONS:
            self._halt(refusals.wrong_version(version))
        if method == b"CONNECT":
            self._halt(refusals.no_proxy())
        if version == "1.0" and any(name == b"transfer-encoding" for name, _ in self.headers):
            self._halt(refusals.malformed("HTTP/1.0 has no Transfer-Encoding"))
        if self.parser.should_upgrade():
            return
        self.headers += self._upgrade
        self._upgrade = []
        raw_path, query = self._target()
        path = raw_path.decode("ascii")
        self.scope["path"] = self.root_path + (urllib.parse.unquote(path) if "%" in path else path)
        self.scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        self.scope["query_string"] = query
        self._begin_cycle(keep_alive=self.parser.should_keep_alive())
        self._in_head, self._in_body = False, True
        self._began = self._heard = self.loop.time()
        self._received = 0

    def _target(self) -> tuple[bytes, bytes]:
        parsed = httptools.parse_url(self.url)  # what it raises is the parser's error
        return cast("bytes | None", parsed.path) or b"/", cast("bytes | None", parsed.query) or b""

    def _begin_cycle(self, *, keep_alive: bool) -> None:
        cycle = RequestCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
            on_close=self._on_close,
        )
        if self._active is None or self._active.response_complete:
            self.cycle = cycle
            self._start(cycle)
            return
        if len(self.pipeline) >= AHEAD_AT_MOST:
            self._halt(refusals.too_many_ahead(AHEAD_AT_MOST))
        self.cycle = cycle
        self.flow.pause_reading()
        self.pipeline.appendleft((cycle, self._application))

    def _start(self, cycle: RequestCycle) -> None:
        self._active = cycle
        if self._place is not None:
            self._place.waiting.pop(self, None)
        self._start_asgi_task(cycle, self._application)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._heard = self.loop.time()
        self._received += len(body)
        self._unfinished = -self._piece
        if self.cycle.response_complete:
            return
        self.cycle.body += body
        if len(self.cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The end of a request."""
        if self.parser.should_upgrade():
            return
        self._in_body = False
        self._quiet = True
        super().on_message_complete()

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

    def _halt(self, refusal: Refusal) -> None:
        """Stop the parser from within one of its callbacks."""
        self._refusal = refusal
        raise _Stopped

    def _stop(self, refusal: Refusal) -> None:
        """Refuse what comes now, and all that follows it, once what came before it is answered."""
        self._refusal = refusal
        host = self.client[0] if self.client else ""
        log.info("connection_refused", status=refusal.status, code=refusal.code, client=host, reason=refusal.message)
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
        if self._half_closed or self.transport.is_closing() or self._all.lingering >= LINGERING_AT_MOST:
            self.transport.close()
            return
        self._all.lingering += 1
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
