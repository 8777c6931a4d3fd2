"""Whether a grammar can be kept to, the same for every engine: its length, a trial in a child process, compiling, and a
cache of the outcomes; all apart from the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from quern.errors import EngineUnavailable, InvalidRequest
from quern.grammar.compile_line import CompileLine
from quern.grammar.compile_trial import GrammarTrial
from quern.grammar.compiler import CompiledGrammar, GrammarCompiler, Vocabulary
from quern.grammar.json_schema import Llguidance
from quern.grammar.kinds import Grammar, JsonGrammar

MAX_SCHEMA_LENGTH = 64 * 1024
MAX_LARK_LENGTH = 256 * 1024
"""Characters of a JSON schema, and of a Lark grammar: one may hold the schemas of many tools."""

MOST_KEPT = 64
MOST_BYTES = 128 * 2**20
SECONDS = 10.0
"""How long a grammar may wait for others that are being compiled."""
LARGE = 8 * 1024
"""Characters: of a longer grammar it may take seconds to tell that it is too complex."""

T = TypeVar("T")


def check_length(grammar: Grammar) -> None:
    """Raises InvalidRequest for a grammar that is too long to be looked at."""
    if isinstance(grammar, JsonGrammar):
        kind, length, most = "JSON schema", len(grammar.schema), MAX_SCHEMA_LENGTH
    else:
        kind, length, most = "grammar", len(grammar.lark), MAX_LARK_LENGTH
    if length > most:
        raise InvalidRequest(
            f"This {kind} has {length} characters, and at most {most} can be kept to. Make it smaller."
        )


class GrammarChecker:
    """Compiles what the answers of one engine are to be kept to. For one event loop.

    `ids`: the model's; `vocabulary` may know fewer. `llguidance`: whose keeps to the grammars. To make one takes half a
    second, as `GrammarCompiler` does.
    """

    def __init__(self, vocabulary: Vocabulary, ids: int, llguidance: Llguidance = Llguidance.OWN) -> None:
        compiler = GrammarCompiler(vocabulary, ids, llguidance)
        self._trial = GrammarTrial(vocabulary, compiler.compile, llguidance)
        self._cache: GrammarCache[CompiledGrammar] = GrammarCache(self._trial.compile, lambda grammar: grammar.size)

    async def check(self, grammar: Grammar, owner: str = "") -> CompiledGrammar:
        """Compile, or find. Raises InvalidRequest with a sentence that says which part can't be kept to,
        EngineUnavailable where that can't be told now.
        """
        check_length(grammar)
        return await self._cache.get(grammar, owner)

    def close(self) -> None:
        """End the trials' child processes; it may take a moment. May be called twice."""
        self._trial.close()


@dataclass(frozen=True, slots=True)
class _Refused:
    """`why`: a sentence."""

    why: str


class GrammarCache(Generic[T]):
    """The outcomes of the last `most` grammars that were asked for, compiled as `CompileLine` lets them. For one event
    loop.

    `compile` raises InvalidRequest for a grammar that can't be kept to. What is kept takes `most_bytes` by `size`, or
    is only one grammar. One whose reader has gone is compiled to its end and kept, so that the same one never costs
    twice.
    """

    def __init__(
        self,
        compile: Callable[[Grammar], T],  # noqa: A002
        size: Callable[[T], int],
        *,
        most: int = MOST_KEPT,
        most_bytes: int = MOST_BYTES,
        seconds: float = SECONDS,
    ) -> None:
        self._compile = compile
        self._size = size
        self._most = most
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._outcomes: OrderedDict[bytes, T | _Refused] = OrderedDict()
        self._compiling: dict[bytes, asyncio.Future[T | _Refused]] = {}
        self._line = CompileLine()

    def __len__(self) -> int:
        return len(self._outcomes)

    async def get(self, grammar: Grammar, owner: str = "") -> T:
        """Compile for an owner, or find. Raises InvalidRequest with a sentence that says which part, EngineUnavailable
        where that can't be told now.
        """
        key = _digest(grammar)
        outcome = await self._known(key)
        if outcome is None:
            large = len(_text(grammar)) > LARGE
            await self._take_place(owner, large=large)
            outcome = await self._compile_in_place(key, grammar, large=large)
        if isinstance(outcome, _Refused):
            raise InvalidRequest(outcome.why)
        return outcome

    async def _known(self, key: bytes) -> T | _Refused | None:
        """What came of a grammar, or what comes of it where it is being compiled."""
        if key in self._compiling:
            return await asyncio.shield(self._compiling[key])
        if key in self._outcomes:
            self._outcomes.move_to_end(key)
        return self._outcomes.get(key)

    async def _take_place(self, owner: str, *, large: bool) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._line.acquire(owner, large=large)
        except TimeoutError:
            seconds = math.ceil(self._seconds)
            msg = f"Other grammars take long to be prepared, so this one could not be. Try again in {seconds} s."
            raise EngineUnavailable(msg, seconds) from None

    async def _compile_in_place(self, key: bytes, grammar: Grammar, *, large: bool) -> T | _Refused:
        """Compile, unless somebody did so meanwhile."""
        if key in self._outcomes:
            self._line.release(large=large)
            return self._outcomes[key]
        if key in self._compiling:
            self._line.release(large=large)
            return await asyncio.shield(self._compiling[key])
        compiling = asyncio.get_running_loop().run_in_executor(None, self._outcome, grammar)
        self._compiling[key] = compiling
        compiling.add_done_callback(partial(self._keep, key, large))
        return await asyncio.shield(compiling)

    def _outcome(self, grammar: Grammar) -> T | _Refused:
        try:
            return self._compile(grammar)
        except InvalidRequest as error:
            return _Refused(str(error))

    def _keep(self, key: bytes, large: bool, compiled: asyncio.Future[T | _Refused]) -> None:
        del self._compiling[key]
        self._line.release(large=large)
        if compiled.cancelled() or compiled.exception() is not None:
            return
        self._outcomes[key] = compiled.result()
        while len(self._outcomes) > self._most or (self._bytes > self._most_bytes and len(self._outcomes) > 1):
            self._outcomes.popitem(last=False)

    @property
    def _bytes(self) -> int:
        return sum(self._size(outcome) for outcome in self._outcomes.values() if not isinstance(outcome, _Refused))


def _digest(grammar: Grammar) -> bytes:
    return hashlib.blake2b(json.dumps([type(grammar).__name__, _text(grammar)]).encode()).digest()


def _text(grammar: Grammar) -> str:
    return grammar.schema if isinstance(grammar, JsonGrammar) else grammar.lark
