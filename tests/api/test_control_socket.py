"""The control socket: the same application, for whoever runs the server and nobody else. Real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from quern.config import ServerSettings
from quern.http_server.control_socket import SOCKET_NAME, address_of, answers, control_socket, is_local
from quern.http_server.server import HttpServer

from .conftest import Start, listening
from .raw_sockets import RawClient, request

NOBODY = 65534
BODY = {"messages": [{"role": "user", "content": "hi"}]}


async def _whether_local(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that says whether its request came over the control socket."""
    body = str(is_local(scope)).encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def _served(
    app: Any, listeners: list[socket.socket], control: socket.socket | None, **settings: Any
) -> AsyncGenerator[None]:
    server = HttpServer(app, ServerSettings(**settings), seconds_to_end=1, control=control)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=listeners))
        await server.listening.wait()
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.wait([serving])


async def _raw(path: Path) -> RawClient:
    with address_of(path) as address:
        return RawClient(*await asyncio.open_unix_connection(address))


def _client(path: Path, base_url: str = "http://localhost", **headers: str) -> httpx2.AsyncClient:
    transport = httpx2.AsyncHTTPTransport(uds=str(path))
    return httpx2.AsyncClient(transport=transport, base_url=base_url, headers=headers, timeout=20)


def _tcp() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener


def _unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    return listener


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder whose socket's path is as long as the parameter says, where there is one."""
    folder = tmp_path
    length: int = getattr(request, "param", 0)
    while (missing := length - len(str(folder)) - len(SOCKET_NAME) - 2) > 0:
        folder /= "d" * min(missing, 200)
        folder.mkdir()
    return folder


@pytest.fixture
def control(folder: Path) -> Generator[socket.socket]:
    with control_socket(folder) as control:
        assert control is not None
        yield control
    assert not (folder / SOCKET_NAME).exists()


async def test_the_whole_application_answers_there(start: Start, tmp_path: Path, control: socket.socket) -> None:
    async with (
        start() as quern,
        listening(quern.application, quern.settings.server, control) as url,
        _client(tmp_path / SOCKET_NAME) as local,
        httpx2.AsyncClient(base_url=url) as remote,
    ):
        for path in ("/health", "/v1/models", "/api/tags", "/ready"):
            assert (await local.get(path)).json().keys() == (await remote.get(path)).json().keys()
        answer = await local.post("/v1/chat/completions", json=BODY)
        assert answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "url", ["http://localhost", "http://quern", "http://%2Fsrv%2Fquern.sock", "http://evil.example"]
)
async def test_whatever_host_a_client_of_a_unix_socket_names_is_served(
    start: Start, tmp_path: Path, control: socket.socket, url: str
) -> None:
    async with start() as quern, listening(quern.application, quern.settings.server, control):
        async with _client(tmp_path / SOCKET_NAME, url) as local:
            assert (await local.get("/v1/models")).status_code == 200
        raw = await _raw(tmp_path / SOCKET_NAME)
        for head in (b"GET /health HTTP/1.1\r\nHost:\r\n\r\n", b"GET /health HTTP/1.0\r\n\r\n"):
            await raw.send(head)
            assert (await raw.answer("GET")).status == 200
        await raw.close()


async def test_a_page_of_another_origin_is_refused_there_too(
    start: Start, tmp_path: Path, control: socket.socket
) -> None:
    async with (
        start() as quern,
        listening(quern.application, quern.settings.server, control),
        _client(tmp_path / SOCKET_NAME, origin="https://evil.example") as local,
    ):
        assert (await local.get("/v1/models")).status_code == 403


async def test_only_requests_over_the_control_socket_are_marked(tmp_path: Path, control: socket.socket) -> None:
    tcp, proxy = _tcp(), _unix(tmp_path / "proxy.sock")
    async with _served(_whether_local, [tcp, proxy], control):
        async with _client(tmp_path / SOCKET_NAME) as client:
            assert [(await client.get("/")).text for _ in range(3)] == ["True"] * 3
        forged = {"state": "local", "local": "true", "x-local": "True", "forwarded": "for=unix", "host": "local"}
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{tcp.getsockname()[1]}", headers=forged) as client:
            assert (await client.get("/?state=local&local=True")).text == "False"
        async with _client(tmp_path / "proxy.sock", **forged) as client:
            assert (await client.get("/")).text == "False"


async def test_what_an_application_writes_into_one_requests_state_is_not_in_the_next_ones(
    tmp_path: Path, control: socket.socket
) -> None:
    seen: list[dict[str, Any]] = []

    async def writes(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope["state"]))
        scope["state"].clear()
        scope["state"]["request_id"] = "mine"
        await _whether_local(scope, receive, send)

    async with _served(writes, [], control), _client(tmp_path / SOCKET_NAME) as client:
        await client.get("/")
        await client.get("/")
    assert seen == [{"local": True}, {"local": True}]


async def test_a_full_server_can_still_be_controlled_and_unix_peers_are_not_one_address(
    tmp_path: Path, control: socket.socket
) -> None:
    tcp, proxy = _tcp(), _unix(tmp_path / "proxy.sock")
    limits = {"max_connections": 6, "max_connections_per_address": 2}
    async with _served(_whether_local, [tcp, proxy], control, **limits):
        clients = [await _raw(tmp_path / "proxy.sock") for _ in range(6)]
        for client in clients:
            await client.send(request("GET", "/"))
            assert (await client.answer("GET")).status == 200
        refused = await RawClient.connect(f"http://127.0.0.1:{tcp.getsockname()[1]}")
        assert (await refused.answer("GET")).status == 503
        administrators = [await _raw(tmp_path / SOCKET_NAME) for _ in range(6)]
        for administrator in administrators:
            await administrator.send(request("GET", "/"))
            assert (await administrator.answer("GET")).body == b"True"
        for client in (*clients, *administrators, refused):
            await client.close()


ASK = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    client.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    while data := client.recv(65536):
        sys.stdout.buffer.write(data)
"""


@pytest.fixture
def open_folder(no_blocking_calls: object) -> Generator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def open_socket(open_folder: Path) -> Generator[socket.socket]:
    """A control socket whose file everybody may open, as on a file system that ignores modes."""
    with control_socket(open_folder) as control:
        assert control is not None
        (open_folder / SOCKET_NAME).chmod(0o666)
        yield control


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
async def test_another_users_process_is_refused_even_where_the_files_mode_lets_it_in(
    open_folder: Path, open_socket: socket.socket
) -> None:
    async with _served(_whether_local, [], open_socket):
        for user, status in ((NOBODY, b"403 Forbidden"), (0, b"200 OK")):
            command = [sys.executable, "-Ic", ASK, str(open_folder / SOCKET_NAME), str(user)]
            asked = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            answer, _ = await asked.communicate()
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert (b"not_this_user" in answer) is (user == NOBODY)


async def test_the_log_says_that_a_request_was_local(start: Start, tmp_path: Path, control: socket.socket) -> None:
    async with (
        start() as quern,
        listening(quern.application, quern.settings.server, control),
        _client(tmp_path / SOCKET_NAME) as local,
    ):
        with capture_logs() as lines:
            await local.get("/v1/models")
    assert [line["client"] for line in lines if line["event"] == "request"] == ["local"]


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_nobody_else_may_open_it_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with control_socket(tmp_path):
            assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) in {0o600, 0o600 & ~umask}
            assert os.umask(umask) == umask
    finally:
        os.umask(before)


def test_its_file_ends_with_it_and_what_a_killed_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / SOCKET_NAME
    _unix(path).close()
    assert path.is_socket()
    with control_socket(tmp_path) as control:
        assert control is not None
        control.listen()
        assert answers(path)
    assert not path.exists()


def test_a_socket_at_which_somebody_answers_stays_theirs(tmp_path: Path) -> None:
    path = tmp_path / SOCKET_NAME
    with _unix(path) as theirs:
        theirs.listen()
        with capture_logs() as lines, control_socket(tmp_path) as control:
            assert control is None
        assert [line["event"] for line in lines] == ["no_control_socket"]
        assert answers(path)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / SOCKET_NAME
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with capture_logs() as lines, control_socket(tmp_path) as control:
        assert control is None
    assert "no socket" in lines[0]["reason"]
    assert path.exists() or path.is_symlink()


def test_a_folder_that_takes_no_socket_is_a_warning(tmp_path: Path) -> None:
    with capture_logs() as lines, control_socket(tmp_path / "missing") as control:
        assert control is None
    assert lines[0]["log_level"] == "warning"
    with capture_logs() as lines, control_socket(Path("/proc")) as control:
        assert control is None
    assert lines[0]["event"] == "no_control_socket"


@pytest.mark.parametrize("folder", [60, 106, 107, 108, 109, 200, 1000], indirect=True)
async def test_a_path_of_any_length_will_do(folder: Path, control: socket.socket) -> None:
    async with _served(_whether_local, [], control):
        client = await _raw(folder / SOCKET_NAME)
        await client.send(request("GET", "/"))
        assert (await client.answer("GET")).body == b"True"
        await client.close()
