"""The `anthropic` library's own parameter types, walked: what they allow is served, or its refusal is in docs/api.md.

Each walk varies one thing in a smallest request: each optional member null, or an empty list; each value of an
enumeration; each arm of a union; at each depth.
"""

from __future__ import annotations

import collections.abc
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typing_extensions
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import BetaMessageParam, BetaToolUnionParam
from anthropic.types.beta import message_count_tokens_params as beta_count_tokens_params
from anthropic.types.beta import message_create_params as beta_create_params
from tests.field_tables import field_table

from quern.api.anthropic.request import CountTokensRequest, MessagesRequest
from quern.errors import InvalidRequest

from .conftest import Quern
from .messages import USER, count, message

SCALARS: dict[Any, Any] = {str: "x", int: 1, float: 0.5, bool: True, object: {}}
LISTS = (list, collections.abc.Iterable, collections.abc.Sequence)
CREATE = (
    message_create_params.MessageCreateParamsNonStreaming,
    beta_create_params.MessageCreateParamsNonStreaming,
    message_create_params.MessageCreateParamsStreaming,
)
COUNT = (message_count_tokens_params.MessageCountTokensParams, beta_count_tokens_params.MessageCountTokensParams)
LIBRARY_HEADERS = {"betas", "user_profile_id", "workspace_id"}


@cache
def members(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The members of a TypedDict: annotation, and whether it is required."""
    told: dict[str, tuple[Any, bool]] = {}
    for name, hint in typing_extensions.get_type_hints(kind, include_extras=True).items():
        required = typing_extensions.get_origin(hint) is typing_extensions.Required
        told[name] = (typing_extensions.get_args(hint)[0] if required else hint, required or kind.__total__)
    return told


@dataclass
class Walk:
    """Values of types: the smallest first, then each that differs from it in one thing. What is the same inside of the
    same is walked once.
    """

    seen: set[tuple[Any, Any]] = field(default_factory=set[tuple[Any, Any]])

    def values(self, annotation: Any, inside: Any = None) -> Iterator[Any]:
        """The values of a type; `inside`: the TypedDict in which it stands."""
        origin, arguments = typing_extensions.get_origin(annotation), typing_extensions.get_args(annotation)
        if typing_extensions.is_typeddict(annotation):
            yield smallest(annotation)
            if (inside, annotation) not in self.seen:
                self.seen.add((inside, annotation))
                yield from self._varied(annotation)
        elif origin in (typing.Annotated, typing_extensions.Required):
            yield from self.values(arguments[0], inside)
        elif origin in (typing.Literal, typing_extensions.Literal):
            yield from arguments
        elif origin in (typing.Union, types.UnionType):
            for argument in arguments:
                yield from self.values(argument, inside)
        elif origin in LISTS or getattr(origin, "__name__", "") == "SequenceNotStr":
            yield from ([one] for one in self.values(arguments[0], inside))
        elif origin is dict:
            yield {}
            yield from ({"x": one} for one in self.values(arguments[1], inside))
        elif annotation in SCALARS:
            yield SCALARS[annotation]

    def _varied(self, kind: Any) -> Iterator[dict[str, Any]]:
        base = smallest(kind)
        for name, (annotation, required) in members(kind).items():
            if not required:
                yield {**base, name: None}
                if isinstance(next(Walk().values(annotation), None), list):
                    yield {**base, name: []}
            yield from ({**base, name: value} for value in self.values(annotation, kind))


def smallest(kind: Any) -> dict[str, Any]:
    """Only what is required."""
    told = members(kind).items()
    return {name: next(Walk().values(annotation)) for name, (annotation, required) in told if required}


def said(message: dict[str, Any]) -> list[Any]:
    content = message.get("content")
    return [content] if isinstance(content, str) else content or []


UNREADABLE_NOW = ("image", "document", "container_upload")


def refusals(kind: Any, model: type[CountTokensRequest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a request's model refuses of all that its type in the library allows."""
    base: dict[str, Any] = {
        "model": "fake", "max_tokens": 1, "messages": USER, "tools": [{"name": "x", "input_schema": {}}]
    }  # fmt: skip
    for name, (annotation, _) in members(kind).items():
        if name in LIBRARY_HEADERS:
            continue
        for value in Walk().values(annotation):
            body = {**base, name: value}
            try:
                model.model_validate(body).chat_input()
            except (ValueError, InvalidRequest) as error:
                yield name, {**body, "error": str(error)}


@pytest.mark.parametrize(
    ("kind", "model"), [*((one, MessagesRequest) for one in CREATE), *((one, CountTokensRequest) for one in COUNT)]
)
def test_only_what_the_documentation_names_is_refused_of_all_that_the_librarys_types_allow(
    kind: Any, model: type[CountTokensRequest]
) -> None:
    for name, body in refusals(kind, model):
        if name == "messages":
            (message,) = body["messages"]
            assert message["role"] == "user", body
            assert said(message)[0]["type"] in UNREADABLE_NOW, body
        else:
            assert name in refused_by_the_page(), body
            assert body[name] is not None


def refused_by_the_page() -> set[str]:
    """The fields whose row says so."""
    return {name for name, told in field_table("POST /v1/messages").items() if told == "refused"}


def test_the_walk_reaches_every_depth() -> None:
    seen = [str(value) for value in Walk().values(BetaMessageParam)]
    for deep in ("'ttl': '1h'", "'citations': None", "browser_state", "encrypted_stdout", "tool_definition"):
        assert any(deep in value for value in seen), deep
    assert any(value.get("defer_loading", 0) is None for value in Walk().values(BetaToolUnionParam))


async def test_every_message_that_the_types_allow_can_be_history(quern: Quern) -> None:
    messages = list(Walk().values(BetaMessageParam))
    for start in range(0, len(messages), 500):
        history = [*messages[start : start + 500], {"role": "assistant", "content": "ok"}, *USER]
        response = await message(quern, messages=history, max_tokens=1)
        assert response.status_code == 200, response.text
        assert await count(quern, messages=history) == len(quern.engine.requests[-1].prompt)


async def test_every_tool_that_the_types_allow_is_shown_or_left_out(quern: Quern) -> None:
    tools = list(Walk().values(BetaToolUnionParam))
    for start in range(0, len(tools), 25):
        some = [{**tool, "name": f"tool_{index}"} for index, tool in enumerate(tools[start : start + 25])]
        response = await quern.client.post("/v1/messages/count_tokens", json={"messages": USER, "tools": some})
        assert response.status_code == 200, response.text


def test_the_page_names_every_block_that_is_refused() -> None:
    page = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
    section = page.partition("\n## Messages\n")[2].partition("\n## ")[0]
    for kind in UNREADABLE_NOW:
        assert re.search(f"`{kind}`", section), kind
