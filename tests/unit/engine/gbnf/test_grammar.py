"""What JSON schemas become: whatever their grammars allow is of the schema, and what they can't keep to is refused."""

from __future__ import annotations

import json
from hashlib import sha256
from random import Random
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engine.gbnf.reader import Gbnf

from quern.engine.gbnf.grammar import schema_grammar
from quern.engine.gbnf.keywords import KEYWORDS
from quern.errors import InvalidRequest

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

# A schema, values that its grammar allows, and values that it does not.
KEPT: list[tuple[Any, list[Any], list[Any]]] = [
    ({}, [1, "a", [], {"b": {}}], []),
    (True, [None, True], []),
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
    ({"pattern": "b"}, ["b", "abc", "\nb\""], ["a", 1]),
    ({"type": "string", "pattern": "^[A-Z]+[0-9]*$", "minLength": 2, "maxLength": 3}, ["AB", "AB1"], ["A", "ABCD"]),
    ({"type": "string", "pattern": "b", "maxLength": 3}, ["b", "abb", "\nb\""], ["aaa", "aaab"]),
    ({"type": "string", "format": "date", "pattern": "^2024-"}, ["2024-02-28"], ["2023-02-28"]),
    ({"type": "string", "format": "date"}, ["2024-02-28", "1999-12-31"], ["2023-02-30", "2023-04-31", "20230101"]),
    ({"type": "string", "format": "time"}, ["23:59:59Z", "00:00:00.5+01:30"], ["24:00:00Z", "12:00:00"]),
    ({"type": "string", "format": "date-time"}, ["2024-01-31T10:00:00Z"], ["2024-01-31 10:00:00Z"]),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
    ({"type": "string", "format": "email"}, ["first.last@example.com"], ["@example.com", "a@b"]),
    ({"type": "string", "format": "hostname"}, ["localhost", "a-b.example.org"], ["-a", "a..b"]),
    ({"type": "string", "format": "ipv4"}, ["0.0.0.0", "192.168.1.255"], ["256.1.1.1", "1.2.3"]),
    ({"type": "integer", "format": "int32"}, [1], [1.5]),
    ({"type": "integer", "minimum": -3, "maximum": 12}, [-3, 0, 12], [-4, 13]),
    ({"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 3}, [1, 2], [0, 3]),
    ({"type": "number", "minimum": 0, "maximum": 1}, [0, 0.25, 1], [-0.1, 1.1]),
    ({"type": "number", "exclusiveMinimum": 0}, [0.001, 1, 250.5], [0, -1]),
    ({"minimum": 5}, [5, 6.5], [4, "a"]),
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
    (SHAPES, [{"kind": "circle", "r": 1.5}, {"kind": "box"}, None], [{"kind": "disc"}, {"kind": "box", "r": 1}]),
    (BASED, [{"id": 1, "name": "a"}], [{"id": 1}, {"name": "a"}]),
    (TWICE, [{"a": 1}], [{"a": 0}, {"a": 1.5}]),
    ({"allOf": [{"minimum": 1, "type": "number"}, {"minimum": 3, "type": "integer"}]}, [3], [2, 3.5]),
    ({"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "null"}}}, [1, None], ["a"]),
    ({"$defs": {"a/b c": {"type": "null"}}, "$ref": "#/$defs/a~1b%20c"}, [None], [1]),
    ({"type": "array", "items": {"$ref": "#"}}, [[], [[], [[]]]], [[1]]),
]  # fmt: skip


def _grammar(schema: Any) -> Gbnf:
    return Gbnf(schema_grammar(json.dumps(schema)))


def _validate(schema: Any, value: Any) -> None:
    validator: Any = jsonschema.Draft202012Validator
    validator(schema, format_checker=validator.FORMAT_CHECKER).validate(value)


@pytest.mark.parametrize(("schema", "allowed", "forbidden"), KEPT, ids=lambda value: json.dumps(value)[:60])
def test_the_usual_values_are_allowed_and_others_are_not(schema: Any, allowed: list[Any], forbidden: list[Any]) -> None:
    grammar = _grammar(schema)
    for value in allowed:
        _validate(schema, value)
        for text in (json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, indent=2)):
            assert grammar.matches(text), text
    for value in forbidden:
        assert not grammar.matches(json.dumps(value)), value


@given(st.sampled_from([schema for schema, _, _ in KEPT]), st.integers())
def test_whatever_a_grammar_allows_is_of_the_schema(schema: Any, seed: int) -> None:
    _validate(schema, json.loads(_grammar(schema).draw(Random(seed))))


NAMES = st.sampled_from(["a", "b", "ab"])
VALUES = st.sampled_from(["a", "", 1, 2.5, True, None, [], {"a": 1}])
TYPE_NAMES = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])


def _composed(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(schemas, min_size=1, max_size=3)
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": TYPE_NAMES | st.lists(TYPE_NAMES, min_size=1, max_size=3, unique=True),
        "properties": st.dictionaries(NAMES, schemas, max_size=3),
        "required": st.lists(NAMES, max_size=2, unique=True),
        "additionalProperties": schemas,
        "items": schemas,
        "prefixItems": some,
        **dict.fromkeys(["minItems", "maxItems", "minLength", "maxLength"], st.integers(0, 3)),
        **dict.fromkeys(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], st.integers(-3, 3)),
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "const": VALUES,
        **dict.fromkeys(["allOf", "anyOf", "oneOf"], some),
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/$defs/b"]),
    }
    chosen = st.lists(st.sampled_from(sorted(keywords)), min_size=1, max_size=4, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: keywords[name] for name in names}))


SCHEMAS = st.recursive(
    st.just(dict[str, Any]()) | st.booleans() | st.fixed_dictionaries({"type": TYPE_NAMES}), _composed, max_leaves=8
)


@given(SCHEMAS, SCHEMAS, SCHEMAS, st.integers())
def test_whatever_the_grammar_of_any_schema_allows_is_of_it(root: Any, a: Any, b: Any, seed: int) -> None:
    schema = {"$defs": {"a": a, "b": b}, **(root if isinstance(root, dict) else {"allOf": [root]})}
    try:
        grammar = _grammar(schema)
    except InvalidRequest:
        return
    if grammar.ends:
        _validate(schema, json.loads(grammar.draw(Random(seed))))


def test_an_escape_counts_as_one_character_and_half_a_surrogate_pair_as_none() -> None:
    grammar = _grammar({"type": "string", "minLength": 1, "maxLength": 1})
    assert grammar.matches(r'"\u00e9"')
    assert grammar.matches(r'"\uD7FF"')
    assert not grammar.matches(r'"\ud83d"')
    assert not grammar.matches(r'"\ud83d\ude00"')


def test_whitespace_has_bounds() -> None:
    grammar = _grammar({"type": "array", "items": {"type": "null"}})
    assert grammar.matches("[\n    null,\n    null\n]")
    assert not grammar.matches("[\n\n    null]")
    assert not grammar.matches("[" + " " * 30 + "null]")
    assert not grammar.matches("[null] ")


def _chain(length: int) -> dict[str, Any]:
    """Each definition refers to the next one and demands something besides."""
    definitions: dict[str, Any] = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}", "type": "null"} for n in range(length)}
    return {"$defs": definitions | {f"a{length}": {}}, "$ref": "#/$defs/a0"}


UNSUPPORTED: dict[str, Any] = {
    "not": {},
    "if": {},
    "then": {},
    "else": {},
    "uniqueItems": True,
    "contains": {},
    "minContains": 1,
    "maxContains": 1,
    "multipleOf": 3,
    "minProperties": 1,
    "maxProperties": 1,
    "patternProperties": {},
    "propertyNames": {},
    "dependentRequired": {},
    "dependentSchemas": {},
    "unevaluatedProperties": False,
    "unevaluatedItems": False,
    "$anchor": "a",
    "$dynamicRef": "#a",
    "nullable": True,
    "minLenght": 3,
}

# A schema, the pointer that its refusal names, and words of it.
REFUSED: list[tuple[Any, str, str]] = [
    *(
        ({"properties": {"a": {name: value}}}, f"#/properties/a/{name}", f"`{name}` is not supported")
        for name, value in UNSUPPORTED.items()
    ),
    (False, "#", "allows nothing"),
    ({"anyOf": [{"const": n} for n in range(401)]}, "#/anyOf", "more than 400 parts"),
    ({"properties": {f"p{n}": {} for n in range(401)}}, "#/properties", "more than 400 members may be left out"),
    ([], "#", "must be an object, true or false"),
    ({"properties": {"a/b~": {"not": {}}}}, "#/properties/a~1b~0/not", "`not`"),
    ({"items": {"items": [{}]}}, "#/items/items", "`items` must be a schema"),
    ({"type": "strange"}, "#/type", "one of object, array"),
    ({"minLength": -1}, "#/minLength", "must be a count"),
    ({"exclusiveMinimum": True}, "#/exclusiveMinimum", "must be a number"),
    ({"minimum": 10**30}, "#/minimum", "must be a number between"),
    ({"properties": {"a": {"$id": "x"}}}, "#/properties/a/$id", "`$id` inside"),
    ({"$ref": "https://example.com/schema"}, "#/$ref", "leaves this schema"),
    ({"$ref": "#/$defs/missing"}, "#/$ref", "finds nothing"),
    ({"$ref": "#anchor"}, "#/$ref", "is no JSON pointer"),
    ({"$ref": "#"}, "#", "leads back to itself"),
    ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "#", "leads back to itself"),
    ({"type": "object", "anyOf": [{"$ref": "#"}]}, "#/anyOf/0", "refers to itself"),
    ({"allOf": [{"$ref": "#"}]}, "#/allOf/0/$ref", "refers to itself"),
    (_chain(200), "#/$defs/a31/$ref", "too many others one after another"),
    ({"type": "string", "pattern": "^a$", "minLength": 2}, "#/pattern", "`pattern` with `minLength` can't be kept to"),
    ({"type": "string", "format": "date", "pattern": "a"}, "#/pattern", "nothing matches"),
    ({"type": "string", "format": "date", "maxLength": 9}, "#/format", "nothing matches"),
    ({"type": "string", "pattern": "^a*$", "maxLength": 9999}, "#/pattern", "too many ways"),
    ({"type": "string", "format": "uri"}, "#/format", "'uri' is not supported; date, time"),
    ({"type": "string", "pattern": "(?=a)"}, "#/pattern", "`(?=`"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "#/minLength", "more than `maxLength`"),
    ({"type": "array", "minItems": 3, "maxItems": 2}, "#/minItems", "more than `maxItems`"),
    ({"items": False, "minItems": 1}, "#/minItems", "more items than there can be"),
    ({"type": "number", "minimum": 0.5}, "#/minimum", "must be a whole number"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "#/minimum", "no number is within `minimum` and `maximum`"),
    ({"exclusiveMinimum": 1, "maximum": 1}, "#/exclusiveMinimum", "no number is within"),
    ({"enum": ["a"], "minLength": 1}, "#/minLength", "beside `enum` or `const`"),
    ({"enum": ["a"], "type": "integer"}, "#", "allows nothing"),
    ({"enum": ["a"], "const": "b"}, "#", "allows nothing"),
    ({"allOf": [{"type": "string"}, {"type": "null"}]}, "#", "allows nothing"),
    ({"allOf": [{"type": ["integer", "number"]}, {"type": "string"}]}, "#", "allows nothing"),
    ({"allOf": [{"const": 1}, {"const": True}]}, "#/allOf/1/const", "differs from #/allOf/0/const"),
    ({"allOf": [{"format": "date"}, {"format": "time"}]}, "#/allOf/1/format", "differs from #/allOf/0/format"),
    (
        {"allOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"properties": {"b": {}}}]},
        "#/allOf/1/properties/b",
        "additional property to #/allOf/0/additionalProperties",
    ),
    ({"allOf": [{"items": {}}, {"prefixItems": [{}]}]}, "#/allOf/1/prefixItems", "changes the meaning"),
    ({"required": ["a"], "additionalProperties": False}, "#/required", "requires 'a'"),
    ({"required": ["a"], "properties": {"a": False}}, "#/required", "requires 'a'"),
    ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, "#/oneOf", "exclude each other"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf", "exclude each other"),
    ({"oneOf": [{"properties": {"a": {}}}, {"type": "null"}]}, "#/oneOf", "exclude each other"),
]


@pytest.mark.parametrize(("schema", "pointer", "words"), REFUSED, ids=lambda value: json.dumps(value)[:60])
def test_what_cannot_be_kept_to_is_refused_by_its_pointer(schema: Any, pointer: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        schema_grammar(json.dumps(schema))
    assert words in str(refused.value)
    assert f"(at {pointer})" in str(refused.value)
    assert "engine cpu" in str(refused.value)


def _laughs(levels: int) -> dict[str, Any]:
    """Each level refers to the next one twice."""
    definitions: dict[str, Any] = {
        f"a{level}": {"anyOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$defs": definitions | {f"a{levels}": {"type": "null"}}, "$ref": "#/$defs/a0"}


def _inlined(levels: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {
        f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$defs": definitions | {f"a{levels}": {}}, "$ref": "#/$defs/a0"}


TOO_LARGE: list[Any] = [
    _laughs(40),
    _inlined(25),
    {"items": {"anyOf": [{"$ref": "#/items"}, {"$ref": "#/items"}], "type": "object"}},
    {"properties": {f"p{n}": {"maxLength": 200 + n, "type": "string"} for n in range(400)}},
    {"additionalProperties": {}, "properties": {sha256(str(n).encode()).hexdigest(): {} for n in range(380)}},
]


@pytest.mark.parametrize("schema", TOO_LARGE, ids=lambda schema: str(schema)[:40])
def test_what_would_become_too_large_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"too large|too many levels"):
        schema_grammar(json.dumps(schema))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not well-formed JSON"),
        ('{"const": NaN}', "not well-formed JSON"),
        ('{"const": 1e999}', "not well-formed JSON"),
        ('{"const": "\\ud800"}', "not well-formed JSON"),
        ('{"title": "' + "a" * 70_000 + '"}', "larger than 64 KiB"),
        ('{"const": ' + "[" * 70 + "]" * 70 + "}", "more than 64 levels"),
        ("[" * 30_000 + "]" * 30_000, "more than 64 levels"),
    ],
    ids=lambda text: text[:30],
)
def test_a_text_that_is_no_schema_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        schema_grammar(text)


def test_every_keyword_that_is_kept_to_has_a_case() -> None:
    cases = json.dumps([schema for schema, _, _ in KEPT])
    assert not [name for name in KEYWORDS if f'"{name}"' not in cases and name != "$id"]


def test_a_large_enum_begins_with_what_its_values_share() -> None:
    values = [f"colour {n}" for n in range(200)]
    text = schema_grammar(json.dumps({"enum": values}))
    assert text.count("colour") == 1
    assert all(Gbnf(text).matches(json.dumps(value)) for value in values[::100])
