"""Engines keep to grammars: whatever a network without any sense draws, the answer is of its schema."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
from tests.json_schemas import PERSON, SCHEMAS, TEXT, Schema, an_object

from quern.config import EngineSettings
from quern.engine.base import GenerateRequest
from quern.engine.cpu.engine import CpuEngine
from quern.errors import InvalidRequest
from quern.grammar.grammar import Grammar, JsonGrammar, TextGrammar
from quern.grammar.tool_calls import call_grammars
from quern.grammar.tool_format import ToolFormat
from quern.types import FinishReason, SamplingParams, Tool

from .engines import ENGINES, Run, Subject, make_subject

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = EngineSettings(parallel=4, context_length=1024, kv_tokens=4096, threads=1)
UNKNOWN_TO_LLAMACPP = {"A small dictionary.", "A share.", "What meets two schemas.", "A multiple of five."}
"""Questions whose schemas llama.cpp's grammars can't say."""
COUNT = TextGrammar("start: /[0-9]+(, [0-9]+)*/", 'root ::= [0-9]+ (", " [0-9]+)*')
WORDS = TextGrammar('start: "no!!!" | "perhaps?"', 'root ::= "no" "!"{3} | "perhaps?"')
SHORT = an_object({"name": {"type": "string", "maxLength": 9}, "size": {"enum": ["small", "large"]}})


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES[1:])
async def subject(request: pytest.FixtureRequest, tiny_model_path: Path) -> AsyncGenerator[Subject]:
    subject = make_subject(request.param, tiny_model_path, SETTINGS)
    await subject.engine.start()
    yield subject
    await subject.engine.close()
    subject.prompt.close()


def json_grammar(schema: Schema) -> JsonGrammar:
    return JsonGrammar(json.dumps(schema))


def request(subject: Subject, grammar: Grammar | None, **sampling: Any) -> GenerateRequest:
    """Any token that the grammar allows may be drawn, unless said otherwise."""
    values: dict[str, Any] = {"max_tokens": 600, "temperature": 5.0, "top_p": 1.0, "top_k": 0, "seed": 1, **sampling}
    return replace(subject.request("Answer."), sampling=SamplingParams(**values), grammar=grammar)


def text_of(subject: Subject, run: Run) -> str:
    return subject.prompt.tokenizer.decode(run.ids)


def check(subject: Subject, run: Run, schema: Schema) -> None:
    assert run.finished.reason is FinishReason.STOP
    assert not subject.prompt.stop_token_ids & set(run.ids)
    text = text_of(subject, run)
    VALIDATOR(schema, format_checker=FORMATS).validate(json.loads(text))
    assert text == text.strip()


VALIDATOR: Any = jsonschema.Draft202012Validator
FORMATS = jsonschema.FormatChecker(["email", "ipv4", "uuid"])


@FORMATS.checks("date", ValueError)
def _is_date(value: object) -> bool:
    """The year 0 is one in RFC 3339, and a leap year; in Python it is none."""
    return not isinstance(value, str) or bool(date.fromisoformat(value.replace("0000-", "2000-", 1)))


@pytest.mark.parametrize(("question", "schema"), SCHEMAS, ids=[question for question, _ in SCHEMAS])
async def test_whatever_is_drawn_the_answer_is_of_its_schema(subject: Subject, question: str, schema: Schema) -> None:
    grammar = json_grammar(schema)
    if question in UNKNOWN_TO_LLAMACPP and not isinstance(subject.engine, CpuEngine):
        with pytest.raises(InvalidRequest, match="is not supported"):
            await subject.engine.check_grammar(grammar)
        return
    await subject.engine.check_grammar(grammar)
    ((quote,), (at,)) = subject.prompt.tokenizer.encode_many(['"', "@"])
    draws: list[dict[str, Any]] = [
        {"temperature": 2.0, "repetition_penalty": 1.05, "min_p": 0.0001, "seed": 2},
        {"temperature": 50.0, "seed": 3},
        {"temperature": 5.0, "seed": 4},
    ]
    for values in draws if isinstance(subject.engine, CpuEngine) else draws[:1]:
        bias = dict.fromkeys((quote, at), 9.0 * values["temperature"])  # or texts would become long
        check(subject, await subject.run(request(subject, grammar, logit_bias=bias, **values)), schema)


async def test_a_network_that_wants_blanks_only_comes_to_an_end(subject: Subject) -> None:
    schema: Schema = {"type": "array", "items": {"const": 1}, "minItems": 3, "maxItems": 3}
    tokenizer = subject.prompt.tokenizer
    blanks = {token: 50.0 for token in range(5000) if tokenizer.token_bytes(token).isspace()}
    run = await subject.run(request(subject, json_grammar(schema), temperature=0, logit_bias=blanks))
    check(subject, run, schema)
    assert sum(character in " \n" for character in text_of(subject, run)) >= 3


async def test_tokens_without_text_and_tags_of_calls_are_never_inside_of_a_text(subject: Subject) -> None:
    special = subject.prompt.tokenizer.special
    eager = dict.fromkeys({*special.control.values(), *special.user_defined.values()} - special.end_of_turn_ids, 100.0)
    schema: Schema = {"type": "string", "minLength": 12, "maxLength": 12}
    run = await subject.run(request(subject, json_grammar(schema), logit_bias=eager))
    check(subject, run, schema)
    assert not set(special.control.values()) & set(run.ids)


async def test_a_text_grammar_is_kept_to_even_where_the_models_end_is_to_be_ignored(subject: Subject) -> None:
    await subject.engine.check_grammar(WORDS)
    for ignore_eos in (False, True):
        run = await subject.run(request(subject, WORDS, ignore_eos=ignore_eos))
        assert text_of(subject, run) in {"no!!!", "perhaps?"}
        assert run.finished.reason is FinishReason.STOP


async def test_a_text_that_may_end_ends_where_the_model_ends_it(subject: Subject) -> None:
    end = min(subject.prompt.stop_token_ids)
    run = await subject.run(request(subject, COUNT, logit_bias={end: 4.0}))
    assert run.finished.reason is FinishReason.STOP
    assert not subject.prompt.stop_token_ids & set(run.ids)
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
        (json_grammar({"const": "x" * 70_000}), r"larger than 64|characters"),
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
    parameters: Schema = {"type": "object", "properties": {name: ODD[name]}, "$defs": DEFINITIONS, "required": [name]}
    grammar = call_grammars(form, [Tool("send", "", parameters)])[-1]
    if grammar.json_schema is not None:
        await subject.engine.check_grammar(JsonGrammar(grammar.json_schema))
    else:
        await subject.engine.check_grammar(TextGrammar(grammar.lark or "", grammar.gbnf))


async def test_a_demanded_call_is_one_of_its_tool_with_its_required_arguments(subject: Subject) -> None:
    whole, structure = call_grammars(ToolFormat.JSON, [Tool("send", "", an_object({"to": ODD["to"]}))])
    with pytest.raises(InvalidRequest):
        await subject.engine.check_grammar(JsonGrammar(whole.json_schema or ""))
    end = dict.fromkeys(subject.prompt.tokenizer.encode('"'), 50.0)
    run = await subject.run(request(subject, JsonGrammar(structure.json_schema or ""), logit_bias=end))
    assert run.finished.reason is FinishReason.STOP
    call = json.loads(text_of(subject, run))
    assert (call["name"], list(call["arguments"]), type(call["arguments"]["to"])) == ("send", ["to"], str)
