"""Grammars are compiled in a child process first, because a schema is a program that came with a request.

llguidance bounds most of its work, but not all: two thousand patterns in `patternProperties`, thirty kilobytes, take
hours, and nothing inside one process stops that for sure. So every new grammar is tried in a process that has little
time and little memory. What it survives is compiled here. A process is started for the first grammar and stays for the
others; where several are tried at the same time there are as many.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from quern.errors import EngineUnavailable, InvalidRequest
from quern.grammar.compiler import CompiledGrammar, Vocabulary
from quern.grammar.json_schema import Llguidance
from quern.grammar.kinds import Grammar, JsonGrammar
from quern.grammar.refusals import too_complex_grammar
from quern.line_process import EndedFromOutside, LineProcess

log = structlog.get_logger(__name__)

SECONDS = 3.0
"""Of the processor's time: large grammars take one."""
MEMORY = 2**28
"""Bytes of address space; without a grammar the process has a seventh of it."""
PATIENCE = 20.0
"""Seconds until the process is given up, whatever it is waiting for: on a busy machine it gets a part of a core."""

MOST_REPLY = 2**16


class GrammarTrial:
    """A compiler that can't be kept busy for ever: `compile` gets only what has passed the trial. For any thread.

    `llguidance`: whose keeps to them. `seconds` of the processor's time for each grammar, `memory` in bytes for all of
    the process, `patience` in seconds for each reply.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        compile: Callable[[Grammar], CompiledGrammar],  # noqa: A002
        llguidance: Llguidance = Llguidance.OWN,
        *,
        seconds: float = SECONDS,
        memory: int = MEMORY,
        patience: float = PATIENCE,
    ) -> None:
        special = {**vocabulary.special.control, **vocabulary.special.user_defined}
        ends = [text for text, token_id in special.items() if token_id in vocabulary.end_of_turn_ids]
        self._opening = {"special": list(special), "ends": ends, "llguidance": llguidance, "seconds": seconds}
        self._memory = memory
        self._patience = patience
        self._compile = compile
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._closed = False

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Takes milliseconds, and some seconds at worst. Raises InvalidRequest with a sentence that says which part,
        EngineUnavailable where the trial can't be held.
        """
        try:
            size = self._try(grammar)
        except EndedFromOutside:
            self._check_open()
            log.warning("grammar_trial_killed")
            size = self._try_once_more(grammar)
        compiled = self._compile(grammar)
        compiled.size = size
        return compiled

    def close(self) -> None:
        """End the child processes, and what is being tried. May be called twice."""
        with self._lock:
            self._closed = True
            children = [*self._idle, *self._busy]
        for child in children:
            child.end()

    def _try(self, grammar: Grammar) -> int:
        """The bytes that it takes. Raises EndedFromOutside where somebody has ended the process."""
        child = self._ready_child()
        try:
            reply = child.ask(
                {"schema": grammar.schema} if isinstance(grammar, JsonGrammar) else {"lark": grammar.lark}
            )
        finally:
            self._put_back(child)
        if reply is None:
            self._check_open()
            log.warning("grammar_trial_failed", kind=type(grammar).__name__)
            raise InvalidRequest(too_complex_grammar(grammar))
        if reply["refused"]:
            raise InvalidRequest(reply["refused"])
        return reply["size"]

    def _try_once_more(self, grammar: Grammar) -> int:
        try:
            return self._try(grammar)
        except EndedFromOutside:
            self._check_open()
            msg = "The process that tries grammars was ended from outside, twice. Free some memory and try again."
            raise EngineUnavailable(msg, 5) from None

    def _ready_child(self) -> _Child:
        """One that nobody else uses."""
        self._check_open()
        with self._lock:
            child = self._idle.pop() if self._idle else None
        if child is None or not child.alive:
            child = _Child(self._opening, self._memory, self._patience)
        with self._lock:
            self._busy.add(child)
        if self._closed:  # meanwhile: `close` may not have seen the child
            self._put_back(child)
        self._check_open()
        return child

    def _put_back(self, child: _Child) -> None:
        with self._lock:
            self._busy.discard(child)
            if child.alive and not self._closed:
                self._idle.append(child)
                return
        child.end()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineUnavailable("The engine has been closed.", 1)


class _Child:
    """One child process and the conversation with it. Raises EngineUnavailable where it does not start."""

    def __init__(self, opening: Mapping[str, object], memory: int, patience: float) -> None:
        self._patience = patience
        try:
            # Where memory runs out, llguidance writes pages.
            self._process = LineProcess(
                "quern.grammar.compile_trial_child", str(memory), most_reply=MOST_REPLY, quiet=True
            )
        except OSError as error:
            msg = (
                f"The process that tries grammars can't be started ({error.strerror}). Free some memory and try again."
            )
            raise EngineUnavailable(msg, 5) from error
        try:
            started = self.ask(opening) is not None
        except EndedFromOutside:
            started = False
        if not started:
            raise EngineUnavailable("The process that tries grammars does not start. Free some memory, try again.", 5)

    @property
    def alive(self) -> bool:
        return self._process.alive

    def end(self) -> None:
        self._process.end()

    def ask(self, request: Mapping[str, object]) -> dict[str, Any] | None:
        """The reply; None where the process ended over it, as it does where its time or memory is spent.

        Raises EngineUnavailable where it was given up before its time was spent, EndedFromOutside where somebody has
        ended it.
        """
        try:
            return json.loads(self._process.ask(json.dumps(request).encode(), self._patience))
        except EndedFromOutside:
            raise
        except EOFError:
            return None
        except TimeoutError:
            log.warning("grammar_trial_not_answered", seconds=self._patience)
            msg = (
                f"The process that tries grammars did not answer within {self._patience:g} s and was ended: it was "
                f"stopped, or the machine is very busy. Try again."
            )
            raise EngineUnavailable(msg, 5) from None
