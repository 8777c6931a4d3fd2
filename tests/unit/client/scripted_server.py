"""A real HTTP server on a real socket that answers as a test's script says."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

PATIENCE_SECONDS = 60
PIECE_SECONDS = 0.02


class End(Enum):
    """What happens after an answer's last chunk."""

    CLEAN = "clean"
    BROKEN = "the connection closes without the last chunk's end"
    NEVER = "nothing, until the client goes away"


@dataclass(frozen=True)
class Scripted:
    """One answer: chunks are sent apart. `silent` sends not even the status line, until the client goes away."""

    chunks: tuple[bytes, ...] = ()
    status: int = 200
    media_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict[str, str])
    end: End = End.CLEAN
    silent: bool = False


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    form: dict[str, list[str]]


class ScriptedServer:
    """Answers each path with its scripted answers in turn; the last one repeats."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.client_gone = threading.Event()
        self._answers: dict[str, list[Scripted]] = {}
        self._http = _HTTPServer(self)

    @property
    def port(self) -> int:
        return self._http.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, *answers: Scripted) -> None:
        self._answers[path] = list(answers)

    def next_answer(self, path: str) -> Scripted:
        answers = self._answers.get(path, [Scripted((b'{"detail": "Not Found"}',), 404, "application/json")])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def wait_for_requests(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.received) < count:
            assert time.monotonic() < deadline, f"only {len(self.received)} of {count} requests arrived"
            time.sleep(0.01)

    @contextmanager
    def running(self) -> Generator[ScriptedServer]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, script: ScriptedServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _HTTPServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self._serve("")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers["content-length"])).decode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        return

    def _serve(self, body: str) -> None:
        script = self.server.script
        headers = {name.lower(): value for name, value in self.headers.items()}
        script.received.append(Received(self.command, self.path, headers, parse_qs(body)))
        answer = script.next_answer(self.path)
        self.close_connection = True
        try:
            if not answer.silent:
                self._send(answer)
            if answer.silent or answer.end is End.NEVER:
                self._wait_for_the_client_to_go()
        except ConnectionError:
            self.server.script.client_gone.set()

    def _send(self, answer: Scripted) -> None:
        self.send_response(answer.status)
        self.send_header("content-type", answer.media_type)
        self.send_header("transfer-encoding", "chunked")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for chunk in answer.chunks:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            time.sleep(PIECE_SECONDS)
        if answer.end is End.CLEAN:
            self.wfile.write(b"0\r\n\r\n")

    def _wait_for_the_client_to_go(self) -> None:
        readable, _, _ = select.select([self.connection], [], [], PATIENCE_SECONDS)
        if readable and not self.connection.recv(1):
            self.server.script.client_gone.set()
