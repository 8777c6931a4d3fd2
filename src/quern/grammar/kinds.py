"""The two kinds of grammars, as values: what an answer may look like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JsonGrammar:
    """The answer is one JSON value, of this JSON schema (as text)."""

    schema: str


@dataclass(frozen=True, slots=True)
class LarkGrammar:
    """The answer is a text of this language: Lark with llguidance's extensions. Its first rule is `start`."""

    lark: str


Grammar = JsonGrammar | LarkGrammar
