"""HTTP/1.1 out of a connection's bytes, with bounds on everything that comes before ASGI has a request.

llhttp (httptools' parser) refuses what is no HTTP; what it leaves open is decided here:

- An Upgrade is ignored, whatever it asks for, and the body that came with it is read. llhttp takes what follows such a
  request's headers for another protocol's, so the headers are parsed a second time, without it.
- The bytes and the number of headers, and of whatever else in a request is not its body.
- What follows a body in chunks never becomes one of the request's headers.
- HTTP/1.1 names one host. Where the target has one too (its absolute form), that one counts (RFC 9112, 3.2).
- A body is framed by its length or in chunks, and by nothing else that `Transfer-Encoding` may say.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from typing import Any, NoReturn, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from quern.http_server import refusals
from quern.http_server.connection import BoundedConnection
from quern.http_server.cycle import RequestCycle
from quern.http_server.refusals import Refusal

AHEAD_AT_MOST = 64
"""Requests that may be sent ahead of the answer to the one before them."""
SPOKEN_VERSIONS = frozenset({"1.0", "1.1"})
NO_VERSION_YET = "0.0"
"""What the parser says before it has read one."""
AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
"""Of a target in absolute form."""


class _Stopped(Exception):
    """Raised through the parser, which stops it; why is in `_refusal`."""


class HttpProtocol(BoundedConnection):
    """One connection. Counted in bytes: `_size`, headers; `_unfinished`, what is neither a whole header nor body."""

    def __init__(self, *uvicorns: Any, **more: Any) -> None:
        super().__init__(*uvicorns, **more)
        self.parser = self._new_parser()
        self._most = self._settings.max_header_bytes
        self.url: bytes = b""
        self._size = self._unfinished = self._piece = 0
        self._upgrade: list[tuple[bytes, bytes]] = []

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # Versions that are not spoken are refused here, by name.
        parser.set_dangerous_leniencies(lenient_data_after_close=True, lenient_version=True)
        return parser

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
                self._check_unfinished(data)
            return

    def _check_unfinished(self, data: bytes) -> None:
        """What brings neither a whole header nor a part of a body: the parser may keep it, or read it for ever."""
        self._unfinished += len(data)
        if self._quiet:
            return
        if self._unfinished > self._most:
            self._stop(refusals.headers_too_large(self._most))
        elif self._in_head and self.url and data.endswith(b"\n") and self.parser.get_http_version() == NO_VERSION_YET:
            self._stop(refusals.wrong_version("0.9"))  # its requests are over with their first line

    def _head_without_upgrade(self) -> bytes:
        self._upgrade = [header for header in self.headers if header[0] == b"upgrade"]
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        method, version = self.scope["method"].encode(), self.scope["http_version"].encode()
        self.parser = self._new_parser()
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
        if len(self.url) > self._most:
            self._halt(refusals.url_too_long(self._most))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what follows a body in chunks is counted and dropped."""
        self._size += len(name) + len(value) + 4
        if self._size > self._most:
            self._halt(refusals.headers_too_large(self._most))
        if not self._in_head:
            return
        name = name.lower()
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A request for ASGI, whose body is still to come."""
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = self.parser.get_http_version()
        fault = self._fault(self.scope["method"], self.scope["http_version"])
        if fault is not None:
            self._halt(fault)
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

    def _fault(self, method: str, version: str) -> Refusal | None:
        """Why a request whose headers have all come is refused."""
        hosts = [value for name, value in self.headers if name == b"host"]
        codings = [value.rstrip(b" ") for name, value in self.headers if name == b"transfer-encoding"]
        unknown = next((coding for coding in codings if coding.lower() != b"chunked"), None)
        refusal = None
        if len(self.headers) > self._settings.max_headers:
            refusal = refusals.too_many_headers(self._settings.max_headers)
        elif version not in SPOKEN_VERSIONS:
            refusal = refusals.wrong_version(version)
        elif method == "CONNECT":
            refusal = refusals.NO_PROXY
        elif len(hosts) > 1:
            refusal = refusals.malformed("it has two Host headers")
        elif version == "1.1" and not (hosts and (hosts[0].strip() or self.local)):  # a Unix socket has no host
            refusal = refusals.malformed("it names no host, as the header Host has to")
        elif codings and version == "1.0":
            refusal = refusals.malformed("HTTP/1.0 has no Transfer-Encoding")
        elif unknown is not None:
            refusal = refusals.transfer_coding(unknown)
        return refusal

    def _target(self) -> tuple[bytes, bytes]:
        try:
            parsed = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            self._halt(refusals.malformed("its target can't be read as a URL"))
        if absolute := AUTHORITY.match(self.url):
            self.headers[:] = [*(header for header in self.headers if header[0] != b"host"), (b"host", absolute[1])]
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

    def _halt(self, refusal: Refusal) -> NoReturn:
        """Stop the parser from within one of its callbacks."""
        self._refusal = refusal
        raise _Stopped
