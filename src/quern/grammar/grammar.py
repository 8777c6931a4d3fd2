"""Grammars as values: what an answer may look like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JsonGrammar:
    """The answer is one JSON value, of this JSON schema (as text)."""

    schema: str


@dataclass(frozen=True, slots=True)
class TextGrammar:
    """The answer is a text of this language: as Lark with llguidance's extensions, and as llama.cpp's GBNF.

    Both say the same; an engine reads the one that it knows. `gbnf` is None where GBNF can't say it.
    """

    lark: str
    gbnf: str | None


Grammar = JsonGrammar | TextGrammar
