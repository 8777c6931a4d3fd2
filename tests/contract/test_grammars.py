"""Engines keep to grammars: whatever a network without any sense draws, the answer is of its schema."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
from tests.json_schemas import GIVES_UP, PATHOLOGICAL, PERSON, SCHEMAS, TEXT, WHOLE, Schema, an_object

from quern.config_models import EngineSettings
from quern.engine.base import GenerateRequest, Tokens
from quern.engine.cpu.engine import CpuEngine
from quern.engine.llamacpp.engine import LlamaCppEngine
from quern.errors import EngineFailed, InvalidRequest
from quern.grammar.kinds import Grammar, JsonGrammar, LarkGrammar
from quern.grammar.tool_calls import ToolFormat, calls_or_json, demanded_call
from quern.sampling import SamplingParams
from quern.types import FinishReason, Tool

from .engines import REAL_ENGINES, Run, Subject, make_subject, started

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = EngineSettings(parallel=4, context_length=1024, kv_tokens=4096, threads=1)
COUNT = LarkGrammar("start: /[0-9]+(, [0-9]+)*/")
WORDS = LarkGrammar('start: "no!!!" | "perhaps?"')
SHORT = an_object({"name": {"type": "string", "maxLength": 9}, "size": {"enum": ["small", "large"]}})
TOOL_CALL = LarkGrammar(f'start: <tool_call> "\\n" %json {json.dumps(SHORT)} "\\n" </tool_call>')


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=REAL_ENGINES)
async def subject(request: pytest.FixtureRequest, tiny_model_path: Path) -> AsyncGenerator[Subject]:
    async with started(make_subject(request.param, tiny_model_path, SETTINGS)) as subject:
        yield subject


def json_grammar(schema: Schema) -> JsonGrammar:
    return JsonGrammar(json.dumps(schema))


def request(subject: Subject, grammar: Grammar | None, **sampling: Any) -> GenerateRequest:
    """Any token that the grammar allows may be drawn, unless said otherwise."""
    values: dict[str, Any] = {"max_tokens": 600, "temperature": 5.0, "top_p": 1.0, "top_k": 0, "seed": 1, **sampling}
    values["temperature"] = min(values["temperature"], subject.hottest)
    return replace(subject.request("Answer."), sampling=SamplingParams(**values), grammar=grammar)


def text_of(subject: Subject, run: Run) -> str:
    return subject.codec.tokenizer.decode(run.ids)


def check(subject: Subject, run: Run, schema: Schema) -> None:
    assert run.finished.reason is FinishReason.STOP
    assert not subject.codec.stop_token_ids & set(run.ids)
    text = text_of(subject, run)
    VALIDATOR(schema, format_checker=FORMATS).validate(json.loads(text))
    assert text == text.strip()


VALIDATOR: Any = jsonschema.Draft202012Validator
FORMATS = jsonschema.FormatChecker(["email", "ipv4", "ipv6", "uuid"])


@FORMATS.checks("date", ValueError)
def _is_date(value: object) -> bool:
    """The year 0 is one in RFC 3339, and a leap year; in Python it is none."""
    return not isinstance(value, str) or bool(date.fromisoformat(value.replace("0000-", "2000-", 1)))


@pytest.mark.parametrize(("question", "schema"), SCHEMAS, ids=[question for question, _ in SCHEMAS])
async def test_whatever_is_drawn_the_answer_is_of_its_schema(subject: Subject, question: str, schema: Schema) -> None:
    grammar = json_grammar(schema)
    await subject.engine.check_grammar(grammar)
    ((quote,), (at,)) = subject.codec.tokenizer.encode_many(['"', "@"])
    draws: list[dict[str, Any]] = [
        {"temperature": 2.0, "repetition_penalty": 1.05, "min_p": 0.0001, "seed": 2},
        {"temperature": 50.0, "seed": 3},
        {"temperature": 5.0, "seed": 4},
    ]
    for values in draws if isinstance(subject.engine, CpuEngine) else draws[:1]:
        bias = dict.fromkeys((quote, at), 9.0 * values["temperature"])  # or texts would become long
        check(subject, await subject.run(request(subject, grammar, logit_bias=bias, **values)), schema)


SELDOM: dict[str, Schema] = {
    **{name: {"type": "string", "format": name} for name in ("duration", "hostname", "ipv6")},
    "patternProperties": an_object({}, patternProperties={"^[ab]$": WHOLE}, minProperties=1, maxProperties=2),
    "multipleOf": {"type": "number", "minimum": -1.5, "exclusiveMaximum": 20, "multipleOf": 0.5},
    "unknown keywords": {"type": "integer", "minimum": 3, "maximum": 4, "minLenght": 9, "x-order": [1]},
    "a pattern with bounds": {"type": "string", "pattern": "^[A-Z]+[0-9]*$", "minLength": 2, "maxLength": 6},
}


@pytest.mark.parametrize("name", SELDOM)
async def test_what_schemas_seldom_have_is_kept_to(subject: Subject, name: str) -> None:
    await subject.engine.check_grammar(json_grammar(SELDOM[name]))
    bias = {token: 20.0 for text in ('"', "}", ":", "a", "1") for token in subject.codec.tokenizer.encode(text)}
    run = await subject.run(request(subject, json_grammar(SELDOM[name]), logit_bias=bias))
    check(subject, run, SELDOM[name])


async def test_the_format_uri_is_kept_to_or_refused(subject: Subject) -> None:
    schema: Schema = {"anyOf": [{"type": "string", "format": "uri"}]}
    if not isinstance(subject.engine, LlamaCppEngine):
        await subject.engine.check_grammar(json_grammar(schema))
        return
    for grammar in (json_grammar(schema), LarkGrammar(f"start: %json {json.dumps(schema)}")):
        with pytest.raises(InvalidRequest, match="the format `uri` at #/anyOf/0 is not supported"):
            await subject.engine.check_grammar(grammar)


async def test_a_network_that_wants_blanks_only_comes_to_an_end(subject: Subject) -> None:
    schema: Schema = {"type": "array", "items": {"const": 1}, "minItems": 3, "maxItems": 3}
    tokenizer = subject.codec.tokenizer
    blanks = {token: 50.0 for token in range(5000) if tokenizer.token_bytes(token).isspace()}
    run = await subject.run(request(subject, json_grammar(schema), temperature=0, logit_bias=blanks))
    check(subject, run, schema)
    assert text_of(subject, run) == "[1, 1, 1]" or text_of(subject, run).count(" ") >= 3


async def test_tokens_without_text_and_tags_of_calls_are_never_inside_of_a_text(subject: Subject) -> None:
    special = subject.codec.tokenizer.special
    eager = dict.fromkeys({*special.control.values(), *special.user_defined.values()} - special.end_of_turn_ids, 100.0)
    schema: Schema = {"type": "string", "minLength": 12, "maxLength": 12}
    run = await subject.run(request(subject, json_grammar(schema), logit_bias=eager))
    check(subject, run, schema)
    assert not set(special.control.values()) & set(run.ids)


async def test_the_name_of_a_control_token_can_be_demanded_as_text(subject: Subject) -> None:
    for name in subject.codec.tokenizer.special.control:
        schema: Schema = {"const": f"{name} is a name"}
        run = await subject.run(request(subject, json_grammar(schema)))
        check(subject, run, schema)
        assert not set(subject.codec.tokenizer.special.control.values()) & set(run.ids)


async def test_a_text_grammar_is_kept_to_even_where_the_models_end_is_to_be_ignored(subject: Subject) -> None:
    await subject.engine.check_grammar(WORDS)
    for ignore_eos in (False, True):
        run = await subject.run(request(subject, WORDS, ignore_eos=ignore_eos))
        assert text_of(subject, run) in {"no!!!", "perhaps?"}
        assert run.finished.reason is FinishReason.STOP


async def test_a_text_that_may_end_ends_where_the_model_ends_it(subject: Subject) -> None:
    end = min(subject.codec.stop_token_ids)
    run = await subject.run(request(subject, COUNT, logit_bias={end: 4.0}))
    assert run.finished.reason is FinishReason.STOP
    assert not subject.codec.stop_token_ids & set(run.ids)
    assert all(number.isdecimal() for number in text_of(subject, run).split(", "))
    at_once = await subject.run(request(subject, COUNT, logit_bias={end: 100.0}))
    assert len(at_once.ids) == 1, "it is not empty, and no longer than it has to be"


async def test_in_one_batch_each_keeps_to_its_own_grammar_and_one_without_is_as_alone(subject: Subject) -> None:
    free = request(subject, None, max_tokens=40, temperature=0)
    alone = await subject.run(free)
    schemas: list[Schema] = [SHORT, PERSON]
    runs = await asyncio.gather(
        subject.run(free), *(subject.run(request(subject, json_grammar(schema), seed=4)) for schema in schemas)
    )
    assert runs[0].ids == alone.ids
    for run, schema in zip(runs[1:], schemas, strict=True):
        check(subject, run, schema)


async def test_a_seed_repeats_its_answer_and_probabilities_are_those_of_the_free_model(subject: Subject) -> None:
    grammar = json_grammar(an_object({"unlikely": {"const": "zyzzyva"}}))
    first, again = [await subject.run(request(subject, grammar, logprobs=3, seed=4)) for _ in range(2)]
    assert first.ids == again.ids
    if not subject.free_logprobs:
        return
    told = [
        (token, logprob)
        for event in first.tokens
        for token, logprob in zip(event.ids, event.logprobs or (), strict=True)
    ]
    assert len(told) == len(first.ids)
    for token, logprob in told:
        assert len(logprob.top) == 3
        assert [value for _, value in logprob.top] == sorted((value for _, value in logprob.top), reverse=True)
        assert logprob.value == pytest.approx(dict(logprob.top).get(token, logprob.value))
        assert logprob.value <= logprob.top[0][1]
    assert any(token not in dict(logprob.top) for token, logprob in told)


async def test_an_answer_that_is_cut_off_is_a_length_and_says_no_more(subject: Subject) -> None:
    grammar = json_grammar(SHORT)
    whole = await subject.run(request(subject, grammar))
    check(subject, whole, SHORT)
    short = await subject.run(request(subject, grammar, max_tokens=len(whole.ids) - 1))
    assert (short.ids, short.finished.reason) == (whole.ids[:-1], FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("grammar", "part"),
    [
        (json_grammar(an_object({"a": an_object({"b": {"not": {}}})})), r"`not`.* #/properties/a/properties/b"),
        (json_grammar(an_object({"a": {"type": "string", "pattern": "(?=a)b"}})), r"pattern.* #/properties/a"),
        (json_grammar({"properties": {"tags": {"uniqueItems": True}}}), r"`uniqueItems`.* #/properties/tags"),
        (json_grammar({"type": "integer", "minimum": 5, "maximum": 3}), "minimum"),
        (JsonGrammar("{"), "JSON"),
        (json_grammar({"const": "x" * 70_000}), "characters"),
    ],
)
async def test_what_cant_be_kept_to_is_refused_with_the_part(subject: Subject, grammar: Grammar, part: str) -> None:
    for attempt in (subject.engine.check_grammar(grammar), subject.run(request(subject, grammar))):
        with pytest.raises(InvalidRequest, match=part) as refused:
            await attempt
        assert len(str(refused.value)) < 600


ODD: dict[str, Any] = {
    "to": {"type": "string", "format": "postcode", "pattern": "^(?=a)"},
    "tags": {"type": "array", "items": TEXT, "uniqueItems": True, "contains": {"const": "x"}},
    "count": {"type": "integer", "multipleOf": 7, "not": {"const": 14}},
    "either": {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 0.5}]},
    "when": {"type": "string", "format": "date", "nullable": True},
    "kind": {"type": "date"},
    "elsewhere": {"$ref": "http://elsewhere/schema.json"},
    "loop": {"$ref": "#/$defs/loop"},
    "self": {"$ref": "#"},
    "both": {"allOf": [{"$ref": "#/$defs/point"}, {"required": ["y"]}], "unevaluatedProperties": False},
    "map": {"type": "object", "propertyNames": {"maxLength": 3}, "patternProperties": {"^x": {}}},
    "if": {"if": {"const": 1}, "then": {"type": "integer"}, "dependentRequired": {"a": ["b"]}},
    "old": {"type": "array", "items": [{"type": "string"}, {"type": "integer"}]},
}
DEFINITIONS: dict[str, Any] = {
    "loop": {"$ref": "#/$defs/loop"},
    "point": {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}},
}


@pytest.mark.parametrize("form", ToolFormat)
@pytest.mark.parametrize("name", ODD)
async def test_a_call_of_any_tool_can_be_demanded(subject: Subject, name: str, form: ToolFormat) -> None:
    # What has to hold itself never ends, which llguidance finds out where nothing is left to choose.
    required = [] if name == "self" and not isinstance(subject.engine, CpuEngine) else [name]
    parameters: Schema = {"type": "object", "properties": {name: ODD[name]}, "$defs": DEFINITIONS, "required": required}
    await subject.engine.check_grammar(demanded_call(form, [Tool("send", "", parameters)])[-1])


async def test_a_demanded_call_is_one_of_its_tool_with_its_required_arguments(subject: Subject) -> None:
    whole, structure = demanded_call(ToolFormat.JSON, [Tool("send", "", an_object({"to": ODD["to"]}))])
    with pytest.raises(InvalidRequest):
        await subject.engine.check_grammar(whole)
    end = dict.fromkeys(subject.codec.tokenizer.encode('"'), 50.0)
    run = await subject.run(request(subject, structure, logit_bias=end))
    assert run.finished.reason is FinishReason.STOP
    call = json.loads(text_of(subject, run))
    assert (call["name"], list(call["arguments"]), type(call["arguments"]["to"])) == ("send", ["to"], str)


async def test_a_demanded_xml_call_has_its_arguments_in_their_order_each_of_its_schema(subject: Subject) -> None:
    properties: dict[str, Schema] = {
        "count": {"type": "integer", "minimum": 3, "maximum": 5},
        "kind": {"enum": ["a", "b"]},
        "code": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z]{3}$"}, "minItems": 1, "maxItems": 1},
    }
    grammar, *_ = demanded_call(ToolFormat.XML, [Tool("send", "", an_object(properties))])
    run = await subject.run(request(subject, grammar))
    assert run.finished.reason is FinishReason.STOP
    found = re.fullmatch(
        r"<function=send>\n<parameter=count>\n[345]\n</parameter>\n"
        r"<parameter=kind>\n[ab]\n</parameter>\n"
        r'<parameter=code>\n\[\s*"[A-Z]{3}"\s*\]\n</parameter>\n</function>',
        text_of(subject, run),
    )
    assert found is not None


async def test_with_tools_and_a_schema_calls_can_be_closed_and_follow_each_other(subject: Subject) -> None:
    special = subject.codec.tokenizer.special
    opening, closing = special.user_defined["<tool_call>"], special.user_defined["</tool_call>"]
    grammar = calls_or_json(json.dumps(SHORT))
    bias = {opening: 50.0, closing: 14.0}
    run = await subject.run(request(subject, grammar, logit_bias=bias, temperature=1.0, max_tokens=300))
    tags = [token for token in run.ids if token in {opening, closing}]
    assert len(tags) > 3
    assert tags == [opening, closing] * (len(tags) // 2) + [opening] * (len(tags) % 2)
    if subject.bias_forbids:
        answer = await subject.run(request(subject, grammar, logit_bias={opening: -math.inf}))
        check(subject, answer, SHORT)


async def test_special_tokens_of_a_text_grammar_are_drawn_as_such(subject: Subject) -> None:
    special = subject.codec.tokenizer.special
    opening, closing = special.user_defined["<tool_call>"], special.user_defined["</tool_call>"]
    run = await subject.run(request(subject, TOOL_CALL))
    assert (run.ids[0], run.ids[-1]) == (opening, closing)
    jsonschema.validate(json.loads(subject.codec.tokenizer.decode(run.ids[1:-1])), SHORT)
    assert run.finished.reason is FinishReason.STOP


async def test_a_grammar_that_becomes_too_complex_fails_its_own_answer(subject: Subject) -> None:
    async with subject.running(subject.endless(max_tokens=900)) as other:
        with pytest.raises(EngineFailed, match="complex"):
            await subject.run(request(subject, json_grammar(GIVES_UP)))
        assert [type(event) async for event in other].count(Tokens) > 0


async def test_a_bias_that_leaves_nothing_to_draw_fails_its_own_answer(subject: Subject) -> None:
    (digit,) = subject.codec.tokenizer.encode("7")
    impossible = request(subject, json_grammar({"const": 7}), logit_bias={digit: -math.inf})
    if not subject.bias_forbids:
        assert text_of(subject, await subject.run(impossible)) == "7"
        return
    async with subject.running(subject.endless(max_tokens=600)) as other:
        with pytest.raises(EngineFailed, match="logit_bias"):
            await subject.run(impossible)
        assert [type(event) async for event in other].count(Tokens) > 0


async def test_the_worst_schemas_come_to_an_end_and_the_engine_goes_on_meanwhile(subject: Subject) -> None:
    async with asyncio.timeout(120):
        for schema in PATHOLOGICAL:
            async with subject.running(subject.endless(max_tokens=900)) as other:
                with suppress(InvalidRequest, EngineFailed):
                    await subject.run(request(subject, JsonGrammar(schema), max_tokens=20))
                assert isinstance(await anext(other), Tokens)
        check(subject, await subject.run(request(subject, json_grammar(SHORT))), SHORT)


async def test_many_optional_members_dont_end_an_answer_in_its_middle(subject: Subject) -> None:
    properties = {f"p{n}": {"type": "string", "maxLength": n % 20 + 1} for n in range(400)}
    schema = an_object(properties, required=["p399"])
    comma = {token: 5.0 for text in (",", '",') for token in subject.codec.tokenizer.encode(text)}
    run = await subject.run(request(subject, json_grammar(schema), logit_bias=comma, max_tokens=300))
    text = text_of(subject, run)
    assert len(text) > 300 or VALIDATOR(schema).is_valid(json.loads(text))
