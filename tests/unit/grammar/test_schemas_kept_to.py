"""Schemas are kept to: the usual values are allowed in either layout, and what is not of the schema is not."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engine.cpu.scripted import ScriptedSpecialTexts, ScriptedVocabulary

from quern.grammar.compiler import CompiledGrammar, GrammarCompiler
from quern.grammar.json_schema import Llguidance
from quern.grammar.kinds import JsonGrammar

END = 256
VOCABULARY = ScriptedVocabulary(257, frozenset({END}), ScriptedSpecialTexts({"<|end|>": END}))

TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/tree",
}
SHAPES = {
    "oneOf": [
        {"type": "object", "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}}, "required": ["kind"]},
        {
            "type": "object",
            "properties": {"kind": {"enum": ["square", "box"]}, "a": {"type": "number"}},
            "required": ["kind"],
        },
        {"type": "null"},
    ]
}
BASED = {
    "$defs": {"Base": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}},
    "allOf": [{"$ref": "#/$defs/Base"}, {"properties": {"name": {"type": "string"}}, "required": ["name"]}],
}
TWICE = {"allOf": [{"properties": {"a": {"minimum": 1}}}, {"properties": {"a": {"type": "integer"}}}]}
EITHER_KEY = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
}
OPEN = {"properties": {"a": {"type": "null"}, "ab": {"type": "null"}}, "additionalProperties": {"type": "boolean"}}

KEPT: list[tuple[Any, list[Any], list[Any]]] = [
    ({}, [1, "a", [], {"b": {}}], []),
    ({"title": "Anything", "description": "at all", "default": 1, "examples": [], "$comment": ""}, [1, "a"], []),
    ({"type": "object"}, [{}, {"a": 1}, {"a": {"b": [1]}}], [1, [], None]),
    ({"type": "array"}, [[], [1, "a", [None]]], [{}, 1]),
    ({"type": "string"}, ["", "a\n\"\\é\t", "😀"], [1, None]),
    ({"type": "boolean"}, [True, False], [0, 1]),
    ({"type": "null"}, [None], [False]),
    ({"type": "integer"}, [0, -7, 10**15], [0.5, "1"]),
    ({"type": "number"}, [0, -0.5, 2.5e-7], ["1"]),
    ({"type": ["string", "null"]}, ["a", None], [1]),
    ({"type": ["integer", "number"]}, [1, 1.5], [None]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc", "é\n"], ["a", "abcd"]),
    ({"type": "string", "minLength": 1}, ["a", "a" * 300], [""]),
    ({"type": "string", "maxLength": 330}, ["", "a" * 299, "a" * 330], ["a" * 331]),
    ({"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}, ["AB-1"], ["AB-", "aAB-1"]),
    ({"pattern": "b"}, ["b", "abc", "\nb\"", 1], ["a"]),
    ({"type": "string", "pattern": "^[A-Z]+[0-9]*$", "minLength": 2, "maxLength": 3}, ["AB", "AB1"], ["A", "ABCD"]),
    ({"type": "string", "pattern": "b", "maxLength": 3}, ["b", "abb", "\nb\""], ["aaa", "aaab"]),
    ({"type": "string", "format": "date", "pattern": "^2024-"}, ["2024-02-28"], ["2023-02-28"]),
    ({"type": "string", "format": "date"}, ["2024-02-28", "1999-12-31"], ["2023-02-30", "2023-04-31", "20230101"]),
    ({"type": "string", "format": "time"}, ["23:59:59Z", "00:00:00.5+01:30"], ["24:00:00Z", "12:00:00"]),
    ({"type": "string", "format": "date-time"}, ["2024-01-31T10:00:00Z"], ["2024-01-31 10:00:00Z"]),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
    ({"type": "string", "format": "email"}, ["first.last@example.com"], ["@example.com", "a@"]),
    ({"type": "string", "format": "hostname"}, ["localhost", "a-b.example.org"], ["-a", "a..b"]),
    ({"type": "string", "format": "ipv4"}, ["0.0.0.0", "192.168.1.255"], ["256.1.1.1", "1.2.3"]),
    ({"type": "integer", "format": "int32"}, [1], [1.5]),
    ({"type": "integer", "minimum": -3, "maximum": 12}, [-3, 0, 12], [-4, 13]),
    ({"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 3}, [1, 2], [0, 3]),
    ({"type": "number", "minimum": 0, "maximum": 1}, [0, 0.25, 1], [-0.1, 1.1]),
    ({"type": "number", "exclusiveMinimum": 0}, [0.001, 1, 250.5], [0, -1]),
    ({"minimum": 5}, [5, 6.5, "a"], [4]),
    ({"enum": ["a", 1, None, {"b": [1, 2]}]}, ["a", 1, None], ["b", 2, {}]),
    ({"enum": ["a", 1, 2.0, True], "type": "integer"}, [1], ["a", True]),
    ({"const": "a\"\\\n"}, ["a\"\\\n"], ["a"]),
    ({"items": {"type": "integer"}, "minItems": 2, "maxItems": 3}, [[1, 2], [1, 2, 3]], [[1], [1] * 4]),
    ({"type": "array", "maxItems": 0}, [[]], [[1]]),
    ({"type": "array", "items": False}, [[]], [[1]]),
    ({"type": "array", "items": {"type": "null"}, "maxItems": 30}, [[], [None] * 30], [[None] * 31, [1]]),
    ({"prefixItems": [{"type": "integer"}, {"type": "string"}]}, [[1, "a"]], [["a", 1]]),
    ({"prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 2}, [[1, None]], [[1], [1, 1]]),
    ({"prefixItems": [{"type": "integer"}], "minItems": 3}, [[1, "a", None]], [[1]]),
    ({"type": "object", "properties": {"a": {"type": "integer"}}}, [{}, {"a": 1}], [{"a": "1"}]),
    ({"properties": {"a": {}, "b": {}, "c": {}}, "required": ["b"]}, [{"b": 1}, {"a": 1, "b": 2, "c": 3}], [{"a": 1}]),
    ({"properties": {"a": False, "b": {"type": "null"}}}, [{}, {"b": None}], [{"a": 1}]),
    ({"required": ["a"]}, [{"a": [1]}], [{}]),
    ({"required": ["a"], "additionalProperties": {"type": "null"}}, [{"a": None}, {"a": None, "b": None}], [{"a": 1}]),
    ({"additionalProperties": {"type": "integer"}}, [{}, {"any": 1, "ä\n": 2}], [{"a": "1"}]),
    ({"type": "object", "additionalProperties": False}, [{}], [{"a": 1}]),
    (OPEN, [{}, {"a": None, "b": True}, {"abc": True, "": False}], [{"a": True}, {"ab": True}]),
    (EITHER_KEY, [{"a": 1}, {"b": 1}, {"a": 1, "b": 2}], [{}]),
    (TREE, [{"v": 1}, {"v": 1, "kids": [{"v": 2, "kids": []}]}], [{"kids": []}, {"v": 1, "kids": [1]}]),
    (SHAPES, [{"kind": "circle", "r": 1.5}, {"kind": "box"}, None], [{"kind": "disc"}, {"kind": "box", "a": "b"}]),
    (BASED, [{"id": 1, "name": "a"}], [{"id": 1}, {"name": "a"}]),
    (TWICE, [{"a": 1}], [{"a": 0}, {"a": 1.5}]),
    ({"allOf": [{"minimum": 1, "type": "number"}, {"minimum": 3, "type": "integer"}]}, [3], [2, 3.5]),
    ({"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "null"}}}, [1, None], ["a"]),
    ({"$defs": {"a/b c": {"type": "null"}}, "$ref": "#/$defs/a~1b%20c"}, [None], [1]),
    ({"type": "array", "items": {"$ref": "#"}}, [[], [[], [[]]]], [[1]]),
]  # fmt: skip
"""A schema, values that its grammar allows, and values that it does not."""


@cache
def compiler(llguidance: Llguidance) -> GrammarCompiler:
    return GrammarCompiler(VOCABULARY, 257, llguidance)


def matches(grammar: CompiledGrammar, text: str) -> bool:
    constraint = grammar.constraint()
    constraint.consume(text.encode())
    return not constraint.failure and constraint.accepting


def written(value: Any, llguidance: Llguidance) -> list[str]:
    """In the layouts that are allowed."""
    one_line = json.dumps(value, ensure_ascii=False)
    if llguidance is not Llguidance.OWN:
        return [one_line]
    compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return [one_line, compact, json.dumps(value, ensure_ascii=False, indent=2)]


@pytest.mark.parametrize("llguidance", Llguidance)
@pytest.mark.parametrize(("schema", "allowed", "forbidden"), KEPT, ids=lambda value: json.dumps(value)[:60])
def test_the_usual_values_are_allowed_and_others_are_not(
    schema: Any, allowed: list[Any], forbidden: list[Any], llguidance: Llguidance
) -> None:
    grammar = compiler(llguidance).compile(JsonGrammar(json.dumps(schema)))
    validator: Any = jsonschema.Draft202012Validator
    for value in allowed:
        validator(schema, format_checker=validator.FORMAT_CHECKER).validate(value)
        for text in written(value, llguidance):
            assert matches(grammar, text), text
    for value in forbidden:
        assert not matches(grammar, json.dumps(value)), value


READ: list[tuple[str, list[str], list[str]]] = [
    ("^$", [""], ["a"]),
    ("^abc$", ["abc"], ["ab", "abcd", "xabc"]),
    ("b", ["b", "abc", '\n"b\\'], ["", "a"]),
    ("^b", ["b", "bc"], ["ab"]),
    ("b$", ["b", "ab"], ["bc"]),
    ("^a|b$", ["a", "ax", "xb"], ["xa", "bx"]),
    ("^(a|b)$", ["a", "b"], ["ab"]),
    ("^(?:ab)+$", ["ab", "abab"], ["", "aba"]),
    ("^(a|)b$", ["ab", "b"], ["aab"]),
    ("^a*b+c?$", ["b", "aabbc"], ["a", "bcc"]),
    ("^a{2}b{1,}c{0,2}$", ["aab", "aabbcc"], ["ab", "aabccc"]),
    ("^a+?b*?$", ["a", "aab"], ["b"]),
    ("^[a-cx]$", ["a", "b", "x"], ["d", "-"]),
    ("^[-a]$", ["-", "a"], ["b"]),
    ("^[a-]$", ["-", "a"], ["b"]),
    ("^[^a]$", ["b", "é", '"', "\\", "\n", "😀"], ["a", ""]),
    ("^[^\\d]$", ["b", " "], ["1"]),
    (r"^\d\w\s$", ["1a ", "0_\n"], ["a1 ", "٣a "]),
    (r"^\D\W\S$", ["a-b", "\n é"[:2] + "x"], ["1-b", "a_b", "a- "]),
    (r"^\.\*\/\-\"\\$", ['.*/-"\\'], ["..//"]),
    (r"^\t\n\r\f\v$", ["\t\n\r\f\v"], ["t"]),
    (r"^\x41\u00e9[\x61-\u0063]$", ["Aéa"], ["A"]),
    ("^.$", ["a", "é", '"', "\t"], ["\n", ""]),
    ('^["\\\\]$', ['"', "\\"], ["a"]),
    ("^[\x01-\x02]$", ["\x01", "\x02"], ["\x03"]),
    ("^]}$", ["]}"], ["]"]),
    ("^(a(b(c)?)?)?$", ["", "abc"], ["bc"]),
    ("^(a*)*$", ["", "aaa"], ["b"]),
    ("^(a|b?)+c$", ["c", "abc"], ["ab"]),
    ("^(a+)+(ab)*$", ["a", "aaab", "aaabab"], ["ab"[1:], "aaba"]),
    ("(a|ab)(c|bcd)$", ["xabcd", "ac"], ["ab"]),
    ("^[a-z]{3,40}$", ["abc", "a" * 40], ["ab", "a" * 41]),
]
"""A pattern, texts that it is found in, and texts that it is not."""


@pytest.mark.parametrize(("pattern", "found", "others"), READ)
def test_a_patterns_texts_are_allowed_and_others_are_not(pattern: str, found: list[str], others: list[str]) -> None:
    schema = {"type": "string", "pattern": pattern}
    grammar = compiler(Llguidance.OWN).compile(JsonGrammar(json.dumps(schema)))
    for text in found:
        assert re.search(pattern, text)
        assert matches(grammar, json.dumps(text, ensure_ascii=False)), text
    for text in others:
        assert not matches(grammar, json.dumps(text, ensure_ascii=False)), text


@given(st.integers(-1200, 1200), st.integers(0, 1200), st.lists(st.integers(-1500, 1500), max_size=20))
def test_integers_are_all_those_between_the_bounds(low: int, size: int, others: list[int]) -> None:
    high = low + size
    schema = {"type": "integer", "minimum": low, "maximum": high}
    grammar = compiler(Llguidance.LLAMA_CPP).compile(JsonGrammar(json.dumps(schema)))
    for value in {low - 1, low, high, high + 1, -1, 0, 1, *others}:
        assert matches(grammar, str(value)) is (low <= value <= high)
