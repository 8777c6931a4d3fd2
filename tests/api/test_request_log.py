"""The log's line for a request: what a person needs who reads it, and never what the request is about."""

from __future__ import annotations

import re
from typing import Any

import pytest

from quern.api.shared.request_log import printable, readable_seconds

from .conftest import Quern, Start
from .engines import saying

SECRET = "xyzzy plugh"
AGENT = "OpenAI/Python 3.50\x1b[31m " + "y" * 200


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0004, "0ms"),
        (0.083, "83ms"),
        (0.9994, "999ms"),
        (0.9996, "1.00s"),
        (1.239, "1.24s"),
        (59.9, "59.90s"),
        (125.4, "2m05s"),
    ],
)
def test_a_duration_is_shown_as_people_read_it(seconds: float, shown: str) -> None:
    assert readable_seconds(seconds) == shown


def test_what_a_client_says_of_itself_moves_no_cursor() -> None:
    assert printable("a\x1b[31m\nb\u202e\x85é", 80) == "a\\x1b[31m\\nb\\u202e\\x85é"
    assert printable("x" * 100, 10) == "xxxxxxxxxx…"


def request_line(logged: pytest.LogCaptureFixture) -> dict[str, Any]:
    messages: list[Any] = [record.__dict__["msg"] for record in logged.records]
    (line,) = [one for one in messages if not isinstance(one, str) and one["event"] == "request"]
    return line


async def test_a_request_has_one_line_with_what_it_was_and_who_sent_it(
    quern: Quern, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    headers = {"user-agent": AGENT.replace("\x1b", "")}
    await quern.client.post("/v1/code/generate", data={"prompt": SECRET}, headers=headers)
    line = request_line(caplog)
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/code/generate", 200)
    assert re.fullmatch(r"\d+ms|\d+\.\d\ds", line["took"])
    assert line["client"] == "127.0.0.1"
    assert line["agent"].startswith("OpenAI/Python 3.50")
    assert len(line["agent"]) == 81
    assert "error" not in line


def refused(
    path: str, error: str, field: str | None = None, **given: Any
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    return path, given, {"error": error, **({"field": field} if field else {})}


REFUSED = {
    "a field": refused("/v1/responses", "invalid", json={"input": SECRET, "text": {"format": {"type": SECRET}}}),
    "a value": refused("/v1/completions", "invalid", "temperature", json={"prompt": SECRET, "temperature": SECRET}),
    "a message": refused("/v1/messages", "invalid", "messages", json={"messages": SECRET, "max_tokens": 5}),
    "too long": refused("/v1/responses", "context_exceeded", json={"input": SECRET * 5000}),
    "another model": refused("/v1/responses", "model_not_found", json={"input": SECRET, "model": "gpt"}),
    "no JSON": refused("/v1/responses", "invalid", content=f'{{"input": "{SECRET}'),
    "a body as a form": refused("/v1/code/generate", "invalid", "prompt", data={SECRET: ""}),
    "an unknown form field": refused("/v1/code/generate", "invalid", "(no name)", data={"prompt": SECRET, SECRET: "x"}),
    "a foreign page": refused(
        "/v1/code/generate", "forbidden", "origin", data={"prompt": SECRET}, headers={"origin": "null"}
    ),
    "no such path": refused("/v1/v1/responses", "not_found", json={"input": SECRET}),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_request_has_the_kind_and_the_field_in_its_line_and_nothing_of_its_text(
    quern: Quern, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    path, given, expected = REFUSED[case]
    caplog.clear()
    headers: dict[str, str] = {"content-type": "application/json"} if "content" in given else {}
    options: dict[str, Any] = {"headers": headers, **given}
    response = await quern.client.post(path, **options)
    assert response.status_code >= 400
    line = request_line(caplog)
    assert {name: line.get(name) for name in expected} == expected
    everything = caplog.text + capfd.readouterr().err
    assert "xyzzy" not in everything
    assert "plugh" not in everything


async def test_no_text_of_a_served_request_is_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    async with start(saying(f"answer {SECRET}")) as quern:
        for path, body in {
            "/v1/chat/completions": {"messages": [{"role": "user", "content": SECRET}], "metadata": {"a": SECRET}},
            "/v1/messages": {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 50, "colour": SECRET},
            "/v1/responses": {"input": SECRET, "instructions": SECRET, "stream": True},
            "/v1/completions": {"prompt": SECRET},
            "/infill": {"input_prefix": SECRET, "input_suffix": SECRET},
            "/tokenize": {"content": SECRET},
        }.items():
            assert (await quern.client.post(f"{path}?q={SECRET}", json=body)).status_code == 200, path
    assert "xyzzy" not in caplog.text
