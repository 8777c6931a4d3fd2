"""Grammars over bytes as tokens: what is allowed, where an answer is complete, and how a refusal reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.engine.cpu.scripted import ScriptedSpecialTexts, ScriptedVocabulary

from quern.errors import GrammarExhausted, InvalidRequest
from quern.grammar.checker import MAX_LARK_LENGTH, MAX_SCHEMA_LENGTH, check_length
from quern.grammar.compiler import Constraint, GrammarCompiler
from quern.grammar.json_schema import Llguidance
from quern.grammar.kinds import Grammar, JsonGrammar, LarkGrammar

END, PAD, CALL, IDS = 256, 257, 258, 300
"""Special tokens after the bytes; the weights have more ids than the vocabulary."""


SPECIAL = ScriptedSpecialTexts({"<|end|>": END, "<|pad|>": PAD}, {"<call>": CALL})
VOCABULARY = ScriptedVocabulary(259, frozenset({END, PAD}), SPECIAL)


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(VOCABULARY, IDS)


@pytest.fixture(scope="module")
def llama_cpp() -> GrammarCompiler:
    return GrammarCompiler(VOCABULARY, IDS, Llguidance.LLAMA_CPP)


def json_grammar(schema: dict[str, Any]) -> JsonGrammar:
    return JsonGrammar(json.dumps(schema))


def lark(text: str) -> LarkGrammar:
    return LarkGrammar(text)


def allowed(constraint: Constraint) -> set[int]:
    mask = constraint.mask()
    assert not constraint.failure
    return {token for token in range(IDS) if mask[token // 8] >> token % 8 & 1}


def bytes_of(text: str) -> set[int]:
    return set(text.encode())


def accepts(compiler: GrammarCompiler, grammar: Grammar, ids: list[int]) -> bool:
    """Whether exactly these ids make a complete answer."""
    constraint = compiler.compile(grammar).constraint()
    for token in ids:
        if constraint.complete or token not in allowed(constraint):
            return False
        constraint.consume([token])
    return constraint.complete or END in allowed(constraint)


def test_a_mask_has_a_bit_for_every_id_and_allows_what_may_come_next(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(json_grammar({"enum": ["ab", "ac", 7]})).constraint()
    assert len(constraint.mask()) * 8 >= IDS
    assert allowed(constraint) == bytes_of('"7')
    constraint.consume(b'"a')
    assert allowed(constraint) == bytes_of("bc")


def test_an_answer_is_complete_where_nothing_more_is_allowed(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(json_grammar({"type": "object", "maxProperties": 0})).constraint()
    constraint.consume(b"{")
    assert not constraint.complete
    constraint.consume(b"}")
    assert constraint.complete
    assert not constraint.failure


def test_where_more_is_allowed_the_model_may_end_with_any_of_its_ends(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(json_grammar({"type": "integer", "minimum": 1})).constraint()
    constraint.consume(b"1")
    assert allowed(constraint) == bytes_of("0123456789") | {END, PAD}
    constraint.consume([PAD])
    assert constraint.complete
    assert not constraint.failure


def test_every_answer_begins_at_the_beginning(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(lark('start: "ab"'))
    first = grammar.constraint()
    first.consume(b"ab")
    assert first.complete
    assert allowed(grammar.constraint()) == bytes_of("a")


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"a": 1}', True),
        ('{"a":1}', True),
        ('{\n    "a": 1\n}', True),
        ('{\n\t"a": 1\n}', True),
        ('{"a" : 1 }', True),
        ('{"a":  1}', False),
        ('{\n\n"a": 1}', False),
        ('{\r\n"a": 1}', False),
        ("{\n" + " " * 40 + '"a": 1}', True),
        ("{\n" + " " * 41 + '"a": 1}', False),
        (' {"a": 1}', False),
    ],
)
def test_json_is_laid_out_as_models_do_within_bounds(compiler: GrammarCompiler, text: str, fits: bool) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    assert accepts(compiler, json_grammar(schema), list(text.encode())) is fits
    assert accepts(compiler, lark(f"start: %json {json.dumps(schema)}"), list(text.encode())) is fits


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"a": [1, 2]}', True),
        ('{"a":[1, 2]}', False),
        ('{"a": [1,2]}', False),
        ('{ "a": [1, 2]}', False),
        ('{\n  "a": [1, 2]}', False),
    ],
)
def test_for_llama_cpp_json_is_laid_out_in_one_line(llama_cpp: GrammarCompiler, text: str, fits: bool) -> None:
    items = {"type": "array", "items": {"type": "integer"}}
    schema = {"type": "object", "properties": {"a": items}, "additionalProperties": False}
    assert accepts(llama_cpp, json_grammar(schema), list(text.encode())) is fits
    assert accepts(llama_cpp, lark(f"start: %json {json.dumps(schema)}"), list(text.encode())) is fits


def test_for_llama_cpp_a_user_defined_token_is_its_text_and_still_a_token_where_it_is_named(
    llama_cpp: GrammarCompiler,
) -> None:
    call = lark('start: <call> %json {"type": "string"} <|pad|>')
    assert llama_cpp.compile(call).lark.startswith(f"start: <[{CALL}]> %json {{")
    assert accepts(llama_cpp, call, [CALL, *b'"', CALL, *b'"', PAD])
    inside = llama_cpp.compile(call).constraint()
    inside.consume([CALL, *b'"x'])
    assert CALL in allowed(inside)
    assert not {END, PAD} & allowed(inside)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("20:30:45Z", True),
        ("20:30:45.678901+08:00", True),
        ("20:30:45.6789012Z", False),
        ("20:30:45.Z", False),
        ("20:30:45.67", False),
    ],
)
def test_a_time_has_a_fraction_of_six_digits_at_most(compiler: GrammarCompiler, text: str, fits: bool) -> None:
    schema = {"type": "string", "format": "time"}
    assert accepts(compiler, json_grammar(schema), list(json.dumps(text).encode())) is fits


def test_the_schemas_own_options_for_the_compiler_dont_count(compiler: GrammarCompiler) -> None:
    options = {"lenient": True, "whitespace_flexible": True, "item_separator": " *,", "no_such_option": 1}
    with pytest.raises(InvalidRequest, match="`not`"):
        compiler.compile(json_grammar({"not": {}, "x-guidance": options}))
    schema = {"type": "array", "items": {"const": 1}, "x-guidance": options}
    assert accepts(compiler, json_grammar(schema), list(b"[1,1]"))
    assert not accepts(compiler, json_grammar(schema), list(b"[1  ,1]"))


def test_a_special_token_is_a_token_and_never_a_part_of_text(compiler: GrammarCompiler) -> None:
    call = lark('start: <call> %json {"type": "string"} <|pad|>')
    assert accepts(compiler, call, [CALL, *b'"<call>"', PAD])
    assert not accepts(compiler, call, [*b"<call>", *b'"x"', PAD])
    inside = compiler.compile(call).constraint()
    inside.consume([CALL, *b'"x'])
    assert not {CALL, END, PAD} & allowed(inside)
    assert not set(range(259, IDS)) & allowed(inside), "ids without a token"
    assert not {CALL, *range(259, IDS)} & allowed(compiler.compile(lark(r"start: /(.|\n)*/")).constraint())


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"properties": {"a": {"not": {}}}}, "the keyword `not` at #/properties/a is not supported"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"if": {}}}}, "the keyword `if` at #/$defs/x is not supported"),
        ({"type": "array", "uniqueItems": True}, "the keyword `uniqueItems` at # is not supported"),
        ({"type": "object", "unevaluatedProperties": False}, "the keyword `unevaluatedProperties` at #"),
        ({"items": {"type": "string", "format": "int-x"}}, "the format `int-x` at #/items is not supported"),
        (
            {"items": {"type": "string", "pattern": "(?=a)b"}},
            "a pattern at #/items is not supported: look-around, including look-ahead and look-behind, is not",
        ),
        ({"type": "string", "pattern": "("}, "a pattern at # is not supported: unclosed group in ("),
        ({"oneOf": [{"type": "string"}, {"maxLength": 3}]}, "the choices of a `oneOf` have to differ"),
        ({"$ref": "http://elsewhere/x.json"}, "it refers to a schema elsewhere, and nothing is fetched"),
        ({"$ref": "#/$defs/none"}, "Pointer '/$defs/none' does not exist"),
        (
            {"type": "integer", "minimum": 5, "maximum": 3},
            "nothing satisfies it: minimum (5) is greater than maximum (3)",
        ),
        ({"$ref": "#"}, "nothing satisfies it"),
        ({"type": "strin"}, "Invalid type: strin"),
        ({"properties": {"a": {}}, "minProperties": 2}, "`minProperties` and `maxProperties` need all"),
        (
            {"items": {"type": "integer", "multipleOf": 999_999_999}},
            "it is too complex, most likely for its `multipleOf` at #/items; shorter patterns, smaller bounds",
        ),
        (
            {"type": "string", "pattern": "^(a|b)*a(a|b){100}$", "minLength": 5, "maxLength": 999},
            "it is too complex, most likely for its `pattern` at #; shorter",
        ),
        ({"type": "string", "pattern": "^[a-z]+$", "format": "date"}, "nothing satisfies all of a string's patterns"),
    ],
)
def test_a_refusal_names_the_part(compiler: GrammarCompiler, schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        compiler.compile(json_grammar(schema))
    assert f"This JSON schema can't be kept to: {reason}" in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("start: <nope>", 'unknown special token: "<nope>"'),
        ("start: foo", 'unknown name: "foo"'),
        ('begin: "a"', "no start rule found"),
        ('start: %json {"properties": {"a": {"contains": {}}}}', "the keyword `contains` at #/properties/a"),
        ("start: %json {", "failed to parse"),
        ('start: "\ud800"', "surrogates not allowed"),
    ],
)
def test_a_refused_text_grammar_is_not_repeated(compiler: GrammarCompiler, text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        compiler.compile(lark(text))
    assert str(refused.value).startswith("This grammar can't be kept to: ")
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


def test_a_grammars_own_text_is_no_part_of_the_reason(compiler: GrammarCompiler) -> None:
    with pytest.raises(InvalidRequest, match=r"can't be kept to: Invalid type: strin\.$"):
        compiler.compile(json_grammar({"title": "fuel exhausted, too large", "type": "strin"}))


def test_what_is_too_long_is_not_looked_at() -> None:
    check_length(JsonGrammar(" " * MAX_SCHEMA_LENGTH))
    check_length(lark(" " * MAX_LARK_LENGTH))
    with pytest.raises(InvalidRequest, match="This JSON schema has 65537 characters, and at most 65536"):
        check_length(JsonGrammar(" " * (MAX_SCHEMA_LENGTH + 1)))
    with pytest.raises(InvalidRequest, match="This grammar has 262145 characters"):
        check_length(lark(" " * (MAX_LARK_LENGTH + 1)))


def test_an_answer_that_breaks_its_grammar_is_a_failure_with_a_sentence(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(lark('start: "secret"')).constraint()
    constraint.consume(b"no")
    assert constraint.failure.startswith("The grammar of this answer could not be kept to any longer")
    assert "secret" not in constraint.failure
    assert "\n" not in constraint.failure


SCHEMA_TEXTS: list[tuple[dict[str, Any], str]] = [
    ({"type": "object", "properties": {"a": {"type": "string"}, "b": {"enum": [1, 12]}}}, '{"a": "x\\"y é", "b": 12}'),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, "[1, 22,\n  333]"),
    ({"type": "integer", "minimum": 1}, "1234"),
]


@pytest.mark.parametrize(("schema", "text"), SCHEMA_TEXTS)
def test_after_any_part_of_an_answer_it_is_where_it_would_be(
    compiler: GrammarCompiler, schema: dict[str, Any], text: str
) -> None:
    grammar = compiler.compile(json_grammar(schema))
    undisturbed, ids = grammar.constraint(), text.encode()
    for at in range(len(ids) + 1):
        other = grammar.constraint(ids[:at])
        assert (other.complete, other.accepting) == (undisturbed.complete, undisturbed.accepting)
        if undisturbed.complete:
            break
        assert allowed(other) == allowed(undisturbed)
        undisturbed.consume(ids[at : at + 1])


@pytest.mark.parametrize("generated", [b"sa", b"secrets", [END], [IDS + 5], b"secret" * 200])
def test_what_is_not_of_the_grammar_cant_be_gone_on_with(
    compiler: GrammarCompiler, generated: bytes | list[int]
) -> None:
    with pytest.raises(InvalidRequest, match="does not follow its grammar"):
        compiler.compile(lark('start: "secret"')).constraint(generated)


def test_a_long_answer_that_goes_on_may_take_as_long_as_one_that_never_stopped(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = compiler.compile(json_grammar({"type": "array", "items": {"type": "integer"}}))
    ids = b"[1" + b", 1" * 20_000
    assert not grammar.constraint(ids).failure
    monkeypatch.setattr("quern.grammar.compiler.SECONDS", 0.0)
    monkeypatch.setattr("quern.grammar.compiler.SECONDS_PER_TOKEN", 0.0)
    with pytest.raises(GrammarExhausted, match="too complex"):
        grammar.constraint(ids)
