"""Whose requests are served: hosts, origins, preflights. A browser can be made to send all of these."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from quern.api.shared.cross_origin import Origins, ServedHosts
from quern.config import ServerSettings
from quern.config_sources import load_settings
from quern.engine.fake import FakeEngine
from quern.errors import ConfigError

from .conftest import Quern, Start
from .engines import saying

EVIL = "https://evil.example"
USER: list[Any] = [{"role": "user", "content": "hi"}]
POSTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"json": {"messages": USER}},
    "/v1/messages": {"json": {"messages": USER, "max_tokens": 50}},
    "/v1/responses": {"json": {"input": "hi"}},
    "/v1/completions": {"json": {"prompt": "hi"}},
    "/infill": {"json": {"input_prefix": "a", "input_suffix": "b"}},
    "/tokenize": {"json": {"content": "hi"}},
    "/v1/conversations": {"json": {}},
    "/v1/code/generate": {"data": {"prompt": "hi"}},
    "/v1/code/chat_stream": {"data": {"prompt": "hi"}},
}
GETS = ["/v1/conversations", "/v1/models", "/v1/responses/resp_x", "/nowhere"]


def sentence(body: dict[str, Any]) -> str:
    return body.get("detail") or body["error"]["message"]


def served(given: str, **settings: Any) -> bool:
    return ServedHosts(ServerSettings.model_validate(settings)).serves(given)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8001",
        "localhost.",
        "127.0.0.1:8001",
        "127.9.9.9",
        "[::1]:8001",
        "[::1]",
        "a.localhost:1",
        "[::ffff:127.0.0.1]:80",
        "0.0.0.0:8001",
        "host.docker.internal:8001",
    ],
)
def test_a_loopback_server_answers_to_this_machines_names(host: str) -> None:
    assert served(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8001",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.5",
        "[2001:db8::1]",
        "localhost@evil.example",
        "evil.example:80:80",
        "[::1",
        "xlocalhost",
        "[evil.example]",
        "127.0.0.1\\.evil.example",
    ],
)
def test_a_loopback_server_answers_to_no_other_name(host: str) -> None:
    assert not served(host)


def test_a_server_that_others_can_reach_answers_to_addresses_and_this_machines_name() -> None:
    everywhere = {"host": "0.0.0.0", "allow_anonymous": True}
    for host in ("192.168.1.5:8001", "[2001:db8::1]:8001", socket.gethostname(), "localhost"):
        assert served(host, **everywhere)
    assert not served("evil.example", **everywhere)
    assert served("Quern.Example:80", host="quern.example", allow_anonymous=True)


def test_more_hosts_can_be_named() -> None:
    named = {"hosts": "gpu.example.com, *.lan"}
    assert served("gpu.example.com:443", **named)
    assert served("box.lan", **named)
    assert not served("lan", **named)
    assert not served("other.example.com", **named)
    assert served("anything.example", hosts=["*"])


@pytest.mark.parametrize("value", ["http://a.example", "a.example:80", "a/b", "a*b"])
def test_what_is_no_host_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.hosts.*is no host"):
        load_settings(overrides={"server": {"hosts": value}})


@pytest.mark.parametrize("value", ["localhost:3000", "http://a.example/path", "https"])
def test_what_is_no_origin_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.cors_origins.*is no origin"):
        load_settings(overrides={"server": {"cors_origins": value}})


def test_origins_are_named_in_whole_or_with_a_star() -> None:
    settings = ServerSettings.model_validate(
        {
            "cors_origins": "http://localhost:*, https://*.example.com, vscode-webview://*, null, app://obsidian.md/, file://"
        }
    )
    origins = Origins(settings.cors_origins)
    for origin in (
        "http://localhost:3000",
        "https://a.example.com",
        "vscode-webview://0f3a",
        "null",
        "app://obsidian.md",
    ):
        assert origin in origins
    assert "file://" in origins
    for origin in (
        EVIL,
        "https://localhost:3000",
        "https://example.com",
        "http://localhost.evil.example",
        "app://other",
    ):
        assert origin not in origins
    assert EVIL in Origins(["*"])
    assert EVIL not in Origins([])


@pytest.mark.parametrize("path", [*POSTS, "/v1/conversations?all=true"])
async def test_a_foreign_host_is_refused_with_a_sentence_whatever_it_asks_for(quern: Quern, path: str) -> None:
    method, given = ("DELETE", {}) if "?" in path else ("POST", POSTS[path])
    response = await quern.client.request(method, path, headers={"host": "evil.example:8001"}, **given)
    assert response.status_code == 403
    assert "'evil.example'" in sentence(response.json())
    assert "server.hosts" in sentence(response.json())
    assert response.headers["x-request-id"]
    assert not quern.engine.requests


@pytest.mark.parametrize("path", [*GETS, "/", "/health", "/docs", "/openapi.json"])
async def test_a_foreign_host_sees_nothing(quern: Quern, path: str) -> None:
    assert (await quern.client.get(path, headers={"host": "evil.example"})).status_code == 403


async def test_of_two_hosts_each_must_be_served(quern: Quern) -> None:
    headers = [("host", "localhost"), ("host", "evil.example")]
    assert (await quern.client.get("/v1/models", headers=headers)).status_code == 403


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "origin", [EVIL, "null", "http://localhost:3000", "file://", "http://localhost.evil.example", ""]
)
async def test_a_page_of_another_origin_computes_nothing(quern: Quern, path: str, origin: str) -> None:
    response = await quern.client.post(path, headers={"origin": origin}, **POSTS[path])
    assert response.status_code == 403
    assert "server.cors_origins" in sentence(response.json())
    assert "access-control-allow-origin" not in response.headers
    assert not quern.engine.requests
    assert not (await quern.client.get("/v1/conversations")).json()["data"]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site"])
async def test_what_a_browser_says_of_another_site_is_believed_without_an_origin(quern: Quern, site: str) -> None:
    for path, given in POSTS.items():
        response = await quern.client.post(path, headers={"sec-fetch-site": site}, **given)
        assert response.status_code == 403, path
    for path in GETS:
        assert (await quern.client.get(path, headers={"sec-fetch-site": site})).status_code == 403, path
    response = await quern.client.delete("/v1/conversations?all=true", headers={"sec-fetch-site": site})
    assert response.status_code == 403
    assert not quern.engine.requests


async def test_a_page_of_another_site_that_claims_to_be_the_servers_own_is_refused(quern: Quern) -> None:
    headers = {"origin": "http://localhost", "sec-fetch-site": "cross-site"}
    assert (await quern.client.get("/v1/models", headers=headers)).status_code == 403


@pytest.mark.parametrize("path", GETS)
async def test_a_page_of_another_origin_reads_nothing(quern: Quern, path: str) -> None:
    assert (await quern.client.get(path, headers={"origin": EVIL})).status_code == 403


async def test_programs_and_the_servers_own_pages_are_served(quern: Quern) -> None:
    for headers in (
        {},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin"},
        {"origin": "http://localhost", "sec-fetch-site": "same-origin"},
        {"origin": "http://localhost:80"},
        {"origin": "http://localhost:8001", "host": "localhost:8001"},
        {"origin": "http://[::1]:8001", "host": "[::1]:8001"},
    ):
        response = await quern.client.post("/v1/chat/completions", json={"messages": USER}, headers=headers)
        assert response.status_code == 200, headers


async def test_a_link_on_any_page_leads_to_the_api_page_but_to_no_data(quern: Quern) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    for path in ("/", "/docs", "/docs/swagger-ui.css", "/openapi.json", "/health"):
        assert (await quern.client.get(path, headers=link)).status_code == 200
    for path in ("/v1/conversations", "/v1/models", "/docsx", "/nowhere", "//v1/models"):
        assert (await quern.client.get(f"http://localhost{path}", headers=link)).status_code == 403
    assert (await quern.client.get("/docs", headers={**link, "sec-fetch-dest": "iframe"})).status_code == 403


@pytest.mark.parametrize("origin", ["https://app.example", "vscode-webview://1a2b", "app://obsidian.md"])
async def test_a_named_origin_is_served_and_may_read_the_answer(start: Start, origin: str) -> None:
    allowed = "https://app.example,vscode-webview://*,app://obsidian.md"
    async with start(saying("hello"), server={"cors_origins": allowed}) as quern:
        headers = {"origin": origin, "sec-fetch-site": "cross-site"}
        streamed: dict[str, Any] = {"json": {"messages": USER, "stream": True}}
        for path, given in [*POSTS.items(), ("/v1/chat/completions", streamed)]:
            response = await quern.client.post(path, headers=headers, **given)
            assert response.status_code == 200, path
            assert response.headers["access-control-allow-origin"] == origin
            assert "Origin" in response.headers["vary"]
            assert "x-request-id" in response.headers["access-control-expose-headers"]
        for path in ("/nowhere", "/v1/responses/unknown"):
            response = await quern.client.get(path, headers=headers)
            assert response.status_code == 404
            assert response.headers["access-control-allow-origin"] == origin
        refused = await quern.client.post("/v1/chat/completions", headers=headers, content=b"{")
        assert refused.headers["access-control-allow-origin"] == origin
        foreign = await quern.client.get("/v1/models", headers={"origin": EVIL})
        assert foreign.status_code == 403
        assert "access-control-allow-origin" not in foreign.headers


async def test_a_named_origin_may_read_that_its_body_is_too_large_and_that_a_turn_failed(start: Start) -> None:
    def bug(_request: object) -> tuple[int, ...]:
        raise ZeroDivisionError

    async with start(FakeEngine(reply=bug), server={"cors_origins": "*", "max_request_bytes": 5000}) as quern:
        headers = {"origin": EVIL}
        too_large = await quern.client.post("/v1/code/generate", data={"prompt": "x" * 6000}, headers=headers)
        assert (too_large.status_code, too_large.headers["access-control-allow-origin"]) == (413, "*")
        failed = await quern.client.post("/v1/code/generate", data={"prompt": "x"}, headers=headers)
        assert (failed.status_code, failed.headers["access-control-allow-origin"]) == (500, "*")


def preflight(origin: str, method: str = "POST", headers: str = "authorization,content-type") -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": headers,
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "cors",
    }


async def test_a_preflight_tells_the_methods_of_its_path_and_takes_every_clients_headers(start: Start) -> None:
    wanted = "authorization,x-api-key,anthropic-version,anthropic-beta,x-stainless-os,x-quern-conversation,content-type"
    async with start(server={"cors_origins": "https://app.example"}) as quern:
        for path, methods in {
            "/v1/chat/completions": {"POST", "OPTIONS"},
            "/v1/messages": {"POST", "OPTIONS"},
            "/v1/conversations": {"GET", "HEAD", "POST", "DELETE", "OPTIONS"},
            "/v1/models/": {"GET", "HEAD", "OPTIONS"},
        }.items():
            method = "POST" if "POST" in methods else "GET"
            response = await quern.client.options(path, headers=preflight("https://app.example", method, wanted))
            assert response.status_code in {200, 204}
            assert set(response.headers["access-control-allow-methods"].split(", ")) == methods
            assert response.headers["access-control-allow-origin"] == "https://app.example"
            assert set(response.headers["access-control-allow-headers"].split(",")) >= set(wanted.split(","))
            assert "Origin" in response.headers["vary"]
        unknown = await quern.client.options("/nowhere", headers=preflight("https://app.example"))
        assert unknown.status_code == 200, "so that the page can read the 404 that follows"


@pytest.mark.parametrize("named", ["", "https://app.example", "*"])
@pytest.mark.parametrize("own", ["http://localhost", "https://localhost", "http://localhost:80"])
async def test_a_preflight_of_the_servers_own_page_is_told_the_methods(start: Start, own: str, named: str) -> None:
    async with start(server={"cors_origins": named}) as quern:
        for path, methods in {"/v1/chat/completions": "OPTIONS, POST", "/v1/models/": "GET, HEAD, OPTIONS"}.items():
            for method in ("POST", "GET", "DELETE"):
                headers = {**preflight(own, method), "sec-fetch-site": "same-origin"}
                response = await quern.client.options(path, headers=headers)
                if named == "*":
                    assert response.headers["access-control-allow-methods"] == methods
                else:
                    assert (response.status_code, response.content) == (204, b"")
                    assert response.headers["allow"] == methods
                    assert "access-control-allow-origin" not in response.headers
        unknown = await quern.client.options("/nowhere", headers=preflight(own) | {"sec-fetch-site": "same-origin"})
        assert unknown.status_code == (200 if named == "*" else 404)


async def test_a_preflight_for_another_host_or_port_of_this_machine_is_refused(quern: Quern) -> None:
    for origin in ("http://localhost:3000", "http://127.0.0.1", "ftp://localhost"):
        response = await quern.client.options("/v1/chat/completions", headers=preflight(origin))
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers


async def test_a_preflight_of_another_origin_is_refused_with_a_sentence(quern: Quern) -> None:
    response = await quern.client.options("/v1/chat/completions", headers=preflight(EVIL))
    assert response.status_code == 403
    assert "server.cors_origins" in sentence(response.json())
    assert "access-control-allow-origin" not in response.headers
