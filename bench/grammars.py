"""What a JSON schema costs on the engine cpu: compiled once, then a mask for every token. Prints medians.

First without a model's weights: the time to compile typical schemas, in the child process that tries them and in this
one, and the time of a mask, along answers that a real model would write. Then decoding with the whole engine, in pairs:
the same prompt free and under a schema, right after each other, in swapped order every second time.

python bench/grammars.py --model ~/.local/share/quern/models/…/….gguf --pairs 7
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from quern.config_models import EngineSettings
from quern.engine.base import GenerateRequest, Tokens
from quern.engine.cpu.engine import CpuEngine
from quern.grammar.compile_trial import GrammarTrial
from quern.grammar.compiler import CompiledGrammar, GrammarCompiler
from quern.grammar.kinds import Grammar, JsonGrammar
from quern.prompt.codec import TextCodec
from quern.sampling import SamplingParams
from quern.types import Message, Role
from results import machine

TEXT = {"type": "string", "maxLength": 200}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 60},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 5},
    },
    "required": ["name", "age", "email", "tags"],
    "additionalProperties": False,
}
FORM = {
    "type": "object",
    "properties": {f"field_{number}": {"type": ["string", "null"], "maxLength": 50} for number in range(60)},
    "additionalProperties": False,
}
CHOICES = {"type": "object", "properties": {"kind": {"enum": [f"kind {n}" for n in range(500)]}}, "required": ["kind"]}
SCHEMAS: dict[str, tuple[dict[str, Any], str]] = {
    "any object": ({"type": "object"}, '{"answer": "yes", "why": "It is in the documentation.", "steps": [1, 2, 3]}'),
    "a person": (
        PERSON,
        '{"name": "Ada Lovelace", "age": 36, "email": "ada@example.org", "tags": ["mathematics", "poetry"]}',
    ),
    "60 optional members": (FORM, json.dumps({f"field_{n}": f"the value of field {n}" for n in range(0, 60, 3)})),
    "an enum of 500": (CHOICES, '{"kind": "kind 321"}'),
    "a pattern": (
        {"type": "string", "pattern": "^[A-Z]{2,5}-[0-9]{1,6}(-[a-z]+)*$"},
        '"QUERN-1234-structured-output"',
    ),
}
"""Schemas, each with an answer of it."""
STORY = {"type": "array", "items": TEXT, "minItems": 100}
"""An answer as long as it may be."""


def milliseconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def mask_costs(grammar: CompiledGrammar, ids: list[int], rounds: int) -> tuple[float, float, float]:
    """Of a mask with its token: the median and the slowest in microseconds; then that of the first round."""
    first: list[float] = []
    times: list[float] = []
    for round_ in range(rounds):
        constraint = grammar.constraint()
        for token in ids:
            began = time.perf_counter()
            constraint.mask()
            constraint.consume([token])
            (times if round_ else first).append((time.perf_counter() - began) * 1e6)
        if constraint.failure:
            raise RuntimeError(constraint.failure)
    return statistics.median(times), max(first), statistics.median(first)


def without_weights(codec: TextCodec, ids: int, rounds: int) -> None:
    """Compile times and masks, for each schema."""
    compiler = GrammarCompiler(codec.tokenizer, ids)
    trial = GrammarTrial(codec.tokenizer, compiler.compile)
    print(f"the first grammar, with the start of the child: {milliseconds(lambda: trial.compile(empty())):.0f} ms\n")
    print("| schema | tried and compiled, ms | of that here, ms | mask and token, µs | first time, µs | slowest, ms |")
    print("|---|---|---|---|---|---|")
    for name, (schema, answer) in SCHEMAS.items():
        grammar = JsonGrammar(json.dumps(schema))
        both = statistics.median(milliseconds(lambda g=grammar: trial.compile(g)) for _ in range(rounds))
        here = statistics.median(milliseconds(lambda g=grammar: compiler.compile(g)) for _ in range(rounds))
        tokens = codec.tokenizer.encode(answer)
        median, slowest, first = mask_costs(compiler.compile(grammar), tokens, rounds)
        print(f"| {name} | {both:.1f} | {here:.1f} | {median:.0f} | {first:.0f} | {slowest / 1000:.1f} |")
    trial.close()


def empty() -> JsonGrammar:
    """A grammar that nobody has asked for yet."""
    return JsonGrammar("{}")


async def decode_speed(engine: CpuEngine, requests: list[GenerateRequest]) -> float:
    """Tokens per second of all sequences together, from when all of them write."""
    counts = [0] * len(requests)
    began = 0.0

    async def read(index: int) -> None:
        nonlocal began
        async with aclosing(engine.generate(requests[index])) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    counts[index] += len(event.ids)
                    if not began and all(counts):
                        began = time.perf_counter()
                        counts[:] = [1] * len(counts)

    await asyncio.gather(*(read(index) for index in range(len(requests))))
    return (sum(counts) - len(counts)) / (time.perf_counter() - began)


def requests(
    codec: TextCodec, sequences: int, tokens: int, grammar: Grammar | None, salt: str
) -> list[GenerateRequest]:
    """Greedy answers of exactly so many tokens."""
    sampling = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    return [
        GenerateRequest(
            tuple(codec.encode_chat([Message(Role.USER, f"Tell story number {number} as a JSON array of sentences.")])),
            sampling,
            cache_salt=f"{salt} {number}",
            grammar=grammar,
        )
        for number in range(sequences)
    ]


async def with_weights(model: Path, codec: TextCodec, options: argparse.Namespace) -> None:
    """Decode speed, free and under a schema."""
    settings = EngineSettings(parallel=max(options.sequences), kv_tokens=8192, threads=options.threads)
    engine = CpuEngine(model, model_id=model.stem, facts=codec.facts, settings=settings, vocabulary=codec.tokenizer)
    await engine.start()
    grammar = JsonGrammar(json.dumps(STORY))
    await engine.check_grammar(grammar)
    print("\n| sequences | free, tokens/s | under a schema | ratio | range |\n|---|---|---|---|---|")
    for sequences in options.sequences:
        speeds: dict[bool, list[float]] = {False: [], True: []}
        for pair in range(options.pairs + 1):
            for constrained in (False, True) if pair % 2 else (True, False):
                made = requests(
                    codec, sequences, options.tokens, grammar if constrained else None, f"{pair} {constrained}"
                )
                speeds[constrained].append(await decode_speed(engine, made))
        free, bound = speeds[False][1:], speeds[True][1:]  # the first pair warms up
        ratios = [one / other for one, other in zip(bound, free, strict=True)]
        print(
            f"| {sequences} | {statistics.median(free):.1f} | {statistics.median(bound):.1f} | "
            f"{statistics.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |"
        )
    await engine.close()


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20, help="repetitions without weights")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 4, 8])
    options = parser.parse_args()
    told = machine()
    print(f"{told['cpu']}, load average {told['load_average']:.1f}, commit {told['commit']}\n")
    codec = TextCodec.load(options.model)
    without_weights(codec, codec.vocabulary_size, options.rounds)
    asyncio.run(with_weights(options.model, codec, options))
    codec.close()


if __name__ == "__main__":
    main()
