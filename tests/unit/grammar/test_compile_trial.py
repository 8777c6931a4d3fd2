"""The child process in which grammars are tried first: real processes, real time and memory limits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs
from tests.unit.engine.cpu.scripted import ScriptedSpecialTexts, ScriptedVocabulary

from quern.errors import EngineUnavailable, InvalidRequest
from quern.grammar import compile_trial as grammar_trial
from quern.grammar import compile_trial_child
from quern.grammar.compile_trial import GrammarTrial
from quern.grammar.compiler import CompiledGrammar, GrammarCompiler
from quern.grammar.kinds import Grammar, JsonGrammar, LarkGrammar

WAIT_SECONDS = 5
VOCABULARY = ScriptedVocabulary(258, frozenset({256}), ScriptedSpecialTexts({"<|end|>": 256}, {"<call>": 257}))
PATTERNS: dict[str, Any] = {
    "type": "object",
    "patternProperties": {f"^{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}": {} for n in range(2000)},
}
"""It would take llguidance hours."""


def json_grammar(schema: dict[str, Any]) -> JsonGrammar:
    return JsonGrammar(json.dumps(schema))


class Compiled:
    """Remembers what passed the trial."""

    def __init__(self) -> None:
        self.grammars: list[Grammar] = []
        self._compiler = GrammarCompiler(VOCABULARY, 258)

    def __call__(self, grammar: Grammar) -> CompiledGrammar:
        self.grammars.append(grammar)
        return self._compiler.compile(grammar)


@pytest.fixture
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture
def trial(compiled: Compiled) -> Iterator[GrammarTrial]:
    trial = GrammarTrial(VOCABULARY, compiled, seconds=0.5)
    yield trial
    trial.close()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "quern.grammar.compile_trial_child" in child.cmdline()]


def test_what_passes_is_compiled_and_one_process_tries_all(trial: GrammarTrial, compiled: Compiled) -> None:
    assert not children(), "it is started for the first grammar"
    sizes: list[int] = []
    for grammar in (json_grammar({"enum": list(range(3000))}), LarkGrammar("start: <call> <|end|>")):
        sizes.append(trial.compile(grammar).size)
        assert compiled.grammars[-1] is grammar
        assert len(children()) == 1
    assert 10**5 < sizes[0] < 10**7
    assert sizes[1] < 10**5


def test_what_the_child_refuses_is_refused_with_its_sentence(trial: GrammarTrial, compiled: Compiled) -> None:
    with pytest.raises(InvalidRequest, match="the keyword `not` at #/items is not supported"):
        trial.compile(json_grammar({"items": {"not": {}}}))
    with pytest.raises(InvalidRequest, match="unknown special token"):
        trial.compile(LarkGrammar("start: <other>"))
    assert not compiled.grammars


def test_tokens_may_be_named_by_the_ids_of_the_model_which_the_child_does_not_have() -> None:
    vocabulary = ScriptedVocabulary(5000, frozenset({4000}), ScriptedSpecialTexts({"<|end|>": 4000}, {}))
    trial = GrammarTrial(vocabulary, GrammarCompiler(vocabulary, 5000).compile)
    constraint = trial.compile(LarkGrammar('start: <[4567]> "<[a]>" <[3000-4999]> <[^7]>')).constraint()
    constraint.consume([4567, *b"<[a]>", 3500, 8])
    assert not constraint.failure
    assert constraint.accepting
    for lark in ("start: <[5000]>", "start: <[99999999999999]>"):
        with pytest.raises(InvalidRequest, match="names a token by an id that this model does not have"):
            trial.compile(LarkGrammar(lark))
    with pytest.raises(InvalidRequest, match="invalid token range"):
        trial.compile(LarkGrammar("start: <[9-8]>"))
    trial.close()


def test_what_takes_too_long_is_refused_and_the_next_one_gets_a_new_process(
    trial: GrammarTrial, compiled: Compiled
) -> None:
    with (
        capture_logs() as logs,
        pytest.raises(InvalidRequest, match=r"too complex.* its `patternProperties` at #;"),
    ):
        trial.compile(json_grammar(PATTERNS))
    assert [entry["event"] for entry in logs] == ["grammar_trial_failed"]
    assert not compiled.grammars
    trial.compile(json_grammar({"type": "object"})).constraint()
    assert len(compiled.grammars) == len(children()) == 1


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^(a{1000}){1000}$"},
        {"type": "array", "prefixItems": [{"type": "string"}, {"type": "string", "pattern": "^a{100000}$"}]},
        {"anyOf": [{"type": "string", "pattern": f"^\\p{{L}}{{1,{n}}}x{n}$"} for n in range(1, 300)]},
    ],
)
def test_what_would_end_an_answer_in_its_middle_is_refused_at_once(
    trial: GrammarTrial, compiled: Compiled, schema: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest, match=r"it is too complex, most likely for its `(pattern|anyOf)` at #"):
        trial.compile(json_grammar(schema))
    assert not compiled.grammars


def test_what_takes_too_much_memory_is_refused(compiled: Compiled) -> None:
    lark = "start: T\nT: " + " & ".join(f"/((a|b)*a(a|b){{{m}}})?/" for m in range(30))
    trial = GrammarTrial(VOCABULARY, compiled, seconds=60, memory=2**26)
    with pytest.raises(InvalidRequest, match="This grammar can't be kept to: it is too complex"):
        trial.compile(LarkGrammar(lark))
    assert not children()


def test_a_child_that_hangs_is_given_up(compiled: Compiled) -> None:
    trial = GrammarTrial(VOCABULARY, compiled)
    trial.compile(json_grammar({"type": "object"}))
    trial._idle[0]._patience = 0.05
    (child,) = children()
    child.suspend()
    with pytest.raises(EngineUnavailable, match=r"did not answer within 0\.05 s"):
        trial.compile(json_grammar({"type": "array"}))
    assert not children()
    trial.compile(json_grammar({"type": "array"}))
    trial.close()


ENDS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", ENDS)
def test_a_child_that_somebody_kills_says_nothing_of_its_grammar_which_is_tried_again(
    trial: GrammarTrial, compiled: Compiled, number: signal.Signals
) -> None:
    trial.compile(json_grammar({"type": "object"}))
    (child,) = children()
    child.suspend()
    trying = threading.Thread(target=trial.compile, args=(json_grammar({"type": "array"}),))
    trying.start()
    while not trial._busy:
        assert trying.is_alive()
    child.send_signal(number)
    with suppress(psutil.NoSuchProcess):
        child.resume()
    trying.join(WAIT_SECONDS)
    assert not child.is_running()
    assert len(compiled.grammars) == 2


def test_where_every_child_is_killed_the_server_is_to_blame_and_not_the_grammar(trial: GrammarTrial) -> None:
    over = threading.Event()

    def kill_all() -> None:
        while not over.is_set():
            with suppress(psutil.Error):
                for child in children():
                    child.kill()

    killing = threading.Thread(target=kill_all)
    killing.start()
    try:
        with pytest.raises(EngineUnavailable, match="Free some memory"):
            trial.compile(json_grammar({"type": "array"}))
    finally:
        over.set()
        killing.join(WAIT_SECONDS)


def test_as_many_processes_as_are_needed_at_once_try_them(trial: GrammarTrial, compiled: Compiled) -> None:
    def try_patterns() -> None:
        with pytest.raises(InvalidRequest):
            trial.compile(json_grammar(PATTERNS))

    trying = threading.Thread(target=try_patterns)
    trying.start()
    while not children():
        assert trying.is_alive()
    for number in range(3):
        trial.compile(json_grammar({"const": number}))
    trying.join(WAIT_SECONDS)
    assert len(compiled.grammars) == 3
    assert len(children()) <= 2


@pytest.mark.parametrize("at", ["special", "schema"])
def test_closing_meanwhile_leaves_no_process(compiled: Compiled, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """At its first line the child has only just been started, at the second it is at work."""
    trial = GrammarTrial(VOCABULARY, compiled, seconds=60)
    closing = threading.Thread(target=trial.close)
    ask = grammar_trial._Child.ask

    def closed_meanwhile(child: Any, request: Any) -> Any:
        if at in request:
            closing.start()
            closing.join(0.1)
        return ask(child, request)

    monkeypatch.setattr(grammar_trial._Child, "ask", closed_meanwhile)
    with pytest.raises(EngineUnavailable, match="closed"):
        trial.compile(json_grammar(PATTERNS))
    closing.join(WAIT_SECONDS)
    assert not closing.is_alive()
    assert not children()


def test_a_child_that_was_killed_is_replaced(trial: GrammarTrial) -> None:
    trial.compile(json_grammar({"type": "object"}))
    (child,) = children()
    child.kill()
    child.wait(WAIT_SECONDS)
    trial.compile(json_grammar({"type": "array"}))


def test_after_the_end_nothing_is_tried_and_no_process_is_left(trial: GrammarTrial) -> None:
    trial.compile(json_grammar({"type": "object"}))
    for _ in range(2):
        trial.close()
    assert not children()
    with pytest.raises(EngineUnavailable, match="closed"):
        trial.compile(json_grammar({"type": "object"}))


def test_a_child_that_does_not_start_is_no_fault_of_the_grammar(
    trial: GrammarTrial, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for broken, sentence in ((tmp_path / "none", "can't be started"), (Path("/bin/false"), "does not start")):
        monkeypatch.setattr(sys, "executable", str(broken))
        with pytest.raises(EngineUnavailable, match=sentence):
            trial.compile(json_grammar({"type": "object"}))
    monkeypatch.undo()
    trial.compile(json_grammar({"type": "object"}))


def test_the_child_answers_every_line_and_ends_with_its_input() -> None:
    opening: dict[str, Any] = {
        "special": ["<|end|>", "<call>"],
        "ends": ["<|end|>"],
        "llguidance": "own",
        "seconds": 5.0,
    }
    requests = [opening, {"schema": "{}"}, {"lark": "start: <call>"}, {"schema": '{"not": {}}'}, {"lark": "start: <x>"}]
    replies = compile_trial_child.replies(json.dumps(request).encode() for request in requests)
    refused = [json.loads(reply)["refused"] for reply in replies]
    assert refused[:3] == ["", "", ""]
    assert "`not`" in refused[3]
    assert "<x>" in refused[4]
    command = [sys.executable, "-P", "-m", "quern.grammar.compile_trial_child", str(2**28)]
    ended = subprocess.run(command, input=json.dumps(opening).encode() + b"\n", capture_output=True, check=True)
    assert ended.stdout == b'{"refused": "", "size": 0}\n'
