"""Characters at the door: what is no UTF-8, halves of characters by whatever way, ends of lines that Unicode knows."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import pytest

from quern.api.shared.json_body import MOST_MARKS, read_json
from quern.errors import InvalidRequest, TooLarge

from .conftest import Quern, Start
from .engines import saying

JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
USER: list[Any] = [{"role": "user", "content": "HERE"}]
TEXTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/messages": {"messages": USER, "max_tokens": 50},
    "/v1/messages/count_tokens": {"messages": USER},
    "/v1/responses": {"input": "HERE"},
    "/v1/completions": {"prompt": "HERE"},
    "/v1/conversations": {"metadata": {"a": "HERE"}},
    "/infill": {"input_prefix": "HERE", "input_suffix": "b"},
    "/tokenize": {"content": "HERE"},
    "/apply-template": {"messages": USER},
}
NO_UTF8 = [
    b"\xed\xa0\xbd",
    b"\xed\xb8\x80",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xff",
    b"caf\xe9",
    b"\xc0\xaf",
    b"\xf5\x80\x80\x80",
]


def with_bytes(path: str, raw: bytes) -> bytes:
    return json.dumps(TEXTS[path]).encode().replace(b"HERE", raw)


@pytest.mark.parametrize("path", TEXTS)
@pytest.mark.parametrize("raw", NO_UTF8)
async def test_a_body_that_is_no_utf8_is_refused_with_the_place(quern: Quern, path: str, raw: bytes) -> None:
    body = with_bytes(path, raw)
    response = await quern.client.post(path, content=body, headers=JSON)
    assert response.status_code == 400, response.text
    message = response.json()["error"]["message"]
    place = body.index(raw) + (3 if raw.startswith(b"caf") else 0)
    assert message == f"The request body is not valid UTF-8 at byte {place}. Send JSON as UTF-8."
    assert not quern.engine.requests
    assert not (await quern.client.get("/v1/conversations")).json()["data"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
async def test_a_byte_order_mark_and_other_encodings_of_json_are_read(quern: Quern, encoding: str) -> None:
    body = json.dumps({"content": "é"}, ensure_ascii=False).encode(encoding)
    assert (await quern.client.post("/tokenize", content=body, headers=JSON)).json() == {"tokens": [0xC3, 0xA9]}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-le"])
async def test_half_a_character_in_another_encoding_is_refused_too(quern: Quern, encoding: str) -> None:
    body = '{"content": "\ud83d"}'.encode(encoding, "surrogatepass")
    response = await quern.client.post("/tokenize", content=body, headers=JSON)
    assert response.status_code == 400
    assert "is not valid UTF-" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"a": }', "The request body is not valid JSON (Expecting value at line 1, column 7). Send one JSON object."),
        (
            b'{"a": 1' + b"0" * 5000 + b"}",
            "The request body has a number of more than 4300 digits. Send a shorter one.",
        ),
        (b'{"a": NaN}', "The request body has NaN, which is no JSON. Send a number or null."),
        (b'{"a": -Infinity}', "The request body has -Infinity, which is no JSON. Send a number or null."),
        (b"[" * 100_000, "The request body has too many levels inside of each other. Make it flatter."),
    ],
)
def test_what_is_wrong_with_a_body_is_said(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_json(body)
    assert str(caught.value) == sentence


async def test_a_body_of_more_values_than_a_prompt_can_have_is_a_413_in_every_dialect(quern: Quern) -> None:
    body = b'{"x": [' + b"0," * (MOST_MARKS + 1) + b"0]}"
    with pytest.raises(TooLarge):
        read_json(body)
    for path in TEXTS:
        response = await quern.client.post(path, content=body, headers=JSON)
        assert response.status_code == 413, path
        assert "commas" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", TEXTS)
async def test_a_large_body_is_refused_by_field_as_a_small_one_is(quern: Quern, path: str) -> None:
    for padding in (0, 100_000):
        body = {**TEXTS[path], "model": 7, "metadata": 7, "x": "y" * padding}
        response = await quern.client.post(path, json=body)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["message"].startswith("The field m"), padding


async def test_a_large_body_is_read_as_a_small_one_is(start: Start) -> None:
    async with start(saying("hello")) as quern:
        for padding in (0, 100_000):
            body = {"messages": USER, "colour": "y" * padding, "max_tokens": 100}
            response = await quern.client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            assert response.headers["x-quern-ignored"] == "colour"


@pytest.mark.parametrize("escape", ["\\ud83d", "\\ude00", "x\\uD83Dy"])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/conversations"])
async def test_half_a_character_as_an_escape_is_kept_as_a_replacement(start: Start, path: str, escape: str) -> None:
    async with start(saying("hello")) as quern:
        created = await quern.client.post(path, content=with_bytes(path, escape.encode()), headers=JSON)
        assert created.status_code == 200, created.text
        again = await quern.client.get(f"{path}/{created.json()['id']}")
        assert again.status_code == 200
        if path == "/v1/conversations":
            assert "\ufffd" in again.json()["metadata"]["a"]


async def test_arguments_in_which_a_model_wrote_half_a_character_are_told(start: Start) -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {"a": "\\ud83d"}}\n</tool_call>'
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
    body = {"messages": USER, "max_tokens": 200, "tools": [tool]}
    async with start(saying(call)) as quern:
        response = await quern.client.post("/v1/messages", json=body)
        assert response.status_code == 200, response.text
        assert response.json()["content"][-1]["input"] == {"a": "\ufffd"}


@pytest.mark.parametrize("text", ["你好 é 😀", "a+b c&d=e%", "\r\nx\0y"])
async def test_a_form_is_utf8_escaped_or_not(start: Start, text: str) -> None:
    async with start() as quern:
        for value in (urllib.parse.quote_plus(text), text.replace("%", "%25").replace("+", "%2B").replace("&", "%26")):
            body = f"prompt={value}&stop=never&stop=ever".encode()
            response = await quern.client.post("/v1/code/generate", content=body, headers=FORM)
            assert response.status_code == 200, response.text
        for request in quern.engine.requests:
            assert text.encode() in bytes(token for token in request.prompt if token < 256)
            assert request.prompt == quern.engine.requests[0].prompt


@pytest.mark.parametrize("value", [b"%ff", b"%ed%a0%bd", b"caf%E9", b"\xed\xa0\xbd", b"\xff"])
async def test_a_form_that_is_no_utf8_is_refused(quern: Quern, value: bytes) -> None:
    for body in (b"prompt=" + value, value + b"=x", b"prompt=x&conversation_id=" + value):
        response = await quern.client.post("/v1/code/chat_stream", content=body, headers=FORM)
        assert response.status_code == 422
        assert "is not valid UTF-8 at byte" in response.json()["detail"][0]["msg"]
    assert not quern.engine.requests


async def test_a_large_form_has_the_text_of_its_escapes_wherever_they_are_cut(start: Start) -> None:
    async with start() as quern:
        for lead in range(4):
            text = "x" * lead + "é😀 " * 9000
            response = await quern.client.post("/v1/code/generate", data={"prompt": text, "max_tokens": "1"})
            assert response.status_code == 413, "the least that it needs is told"
            assert "at least" in response.json()["detail"]
        text = "é😀 " * 3200
        body = "prompt=" + "".join(f"%{byte:02x}" for byte in text.encode())
        assert len(body) > 2**16
        response = await quern.client.post("/v1/code/generate", content=body.encode(), headers=FORM)
        assert response.status_code == 200, response.text
    assert text.encode() in bytes(token for token in quern.engine.requests[-1].prompt if token < 256)


@pytest.mark.parametrize(
    "charset", ["utf-7", "unicode_escape", "raw_unicode_escape", "utf-16", "idna", "punycode", "nonsense"]
)
@pytest.mark.parametrize("raw", [b"+2D0-", b"\\ud83d", b"\xff\xfe", b"\xed\xa0\xbd"])
async def test_a_part_of_a_form_in_any_charset_holds_whole_characters_or_is_refused(
    quern: Quern, charset: str, raw: bytes
) -> None:
    head = b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n'
    headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
    response = await quern.client.post("/v1/code/chat_stream", content=head + raw + b"\r\n--b--\r\n", headers=headers)
    assert response.status_code in {200, 422}, response.text
    for conversation in (await quern.client.get("/v1/conversations")).json()["data"]:
        assert (await quern.client.get(f"/v1/conversations/{conversation['id']}")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/code/generate", "/v1/code/chat_stream"])
@pytest.mark.parametrize(
    ("charset", "raw"),
    [
        ("", b"\xff\xfe"),
        ("", b"\xed\xa0\xbd"),
        ("; charset=utf-8", b"caf\xe9"),
        ("; charset=nonsense", "é".encode()),
        ("; charset=us-ascii", "é".encode()),
    ],
)
async def test_a_part_of_a_form_that_is_not_utf8_is_refused_and_not_taken_for_other_characters(
    quern: Quern, path: str, charset: str, raw: bytes
) -> None:
    head = b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n'
    headers = {"content-type": f"multipart/form-data; boundary=b{charset}"}
    response = await quern.client.post(path, content=head + raw + b"\r\n--b--\r\n", headers=headers)
    assert response.status_code == 422
    assert "Send UTF-8" in response.json()["detail"][0]["msg"]
    assert not quern.engine.requests


@pytest.mark.parametrize("charset", ["", "; charset=UTF-8", '; charset="utf8"'])
async def test_a_part_of_a_form_in_utf8_is_read_whatever_the_form_calls_it(quern: Quern, charset: str) -> None:
    body = '--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nhé 中\r\n--b--\r\n'.encode()
    headers = {"content-type": f"multipart/form-data; boundary=b{charset}"}
    response = await quern.client.post("/v1/code/generate", content=body, headers=headers)
    assert "hé 中" in response.json()["result"]


@pytest.mark.parametrize("raw", ["%ed%a0%bd", "%ff", "%00"])
async def test_a_query_and_a_path_that_are_no_utf8_are_never_a_500(start: Start, raw: str) -> None:
    async with start(live=True) as quern:
        for path in (f"/v1/conversations?after={raw}", f"/v1/conversations/{raw}", f"/v1/models/{raw}", f"/{raw}"):
            assert (await quern.client.get(path)).status_code in {400, 404}, path


STREAMS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/messages": {"messages": USER, "max_tokens": 50},
    "/v1/responses": {"input": "hi"},
    "/v1/completions": {"prompt": "hi"},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
}


@pytest.mark.parametrize("path", STREAMS)
async def test_an_event_is_one_line_for_readers_that_know_unicodes_ends_of_lines(start: Start, path: str) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\r\nj"
    async with start(saying(text)) as quern:
        response = await quern.client.post(path, json={**STREAMS[path], "stream": True})
    raw = response.content.decode()
    assert "\\u2028" in raw
    told = ""
    for line in raw.splitlines():
        assert line == "" or line.startswith(("data: ", "event: ")), line
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            told += _text(event)
    assert text in told


@pytest.mark.parametrize(("path", "body"), [("/api/chat", {"messages": USER}), ("/api/generate", {"prompt": "hi"})])
async def test_a_line_of_json_is_one_line_for_such_readers_too(start: Start, path: str, body: dict[str, Any]) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\r\nj"
    async with start(saying(text)) as quern:
        response = await quern.client.post(path, json=body)
    answers = [json.loads(line) for line in response.content.decode().splitlines()]
    assert "".join(one["response"] if "response" in one else one["message"]["content"] for one in answers) == text


def _text(event: dict[str, Any]) -> str:
    if choices := event.get("choices"):
        return choices[0].get("text") or choices[0].get("delta", {}).get("content") or ""
    added: Any = event.get("delta", event.get("content", ""))
    if hasattr(added, "get"):
        added = added.get("text", "")
    return added if isinstance(added, str) else ""
