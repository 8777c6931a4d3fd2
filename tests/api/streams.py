"""Streams of server-sent events, as the tests of several dialects read them."""

from __future__ import annotations

import json
from typing import Any

import httpx2


def frames(response: httpx2.Response) -> list[Any]:
    """The data of every event; `[DONE]` stays text."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    data = [line.removeprefix("data: ") for line in lines]
    return [item if item == "[DONE]" else json.loads(item) for item in data]
