"""PLACEHOLDER by the lead until the grammars are here; replace this file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quern.prompt.tools.format import ToolFormat
from quern.types import Tool


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """A demanded call, in the notations that engines read."""

    json_schema: str | None
    lark: str | None
    gbnf: str | None


def call_grammar(format: ToolFormat, tools: Sequence[Tool]) -> CallGrammar:  # noqa: A002
    """Not yet."""
    raise NotImplementedError
