"""Compiled grammars, kept for the next request, and compiled apart from the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from quern.engine.base import Grammar, JsonGrammar
from quern.engine.cpu.grammar import CompiledGrammar, check_length
from quern.errors import EngineUnavailable, InvalidRequest

MOST_KEPT = 64
MOST_BYTES = 128 * 2**20
SECONDS = 5.0
"""How long a grammar may wait for others that are being compiled."""

Compile = Callable[[Grammar], CompiledGrammar]
Outcome = CompiledGrammar | str
"""A grammar, or the sentence that refuses it."""


class GrammarCache:
    """The outcomes of the last `most` grammars that were asked for, compiled one at a time. For one event loop.

    They take `most_bytes` of memory, or there is only one of them. A grammar whose reader has gone is compiled to its
    end and kept, so that the same one never costs twice.
    """

    def __init__(
        self,
        compile: Compile,  # noqa: A002
        *,
        most: int = MOST_KEPT,
        most_bytes: int = MOST_BYTES,
        seconds: float = SECONDS,
    ) -> None:
        self._compile = compile
        self._most = most
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._outcomes: OrderedDict[bytes, Outcome] = OrderedDict()
        self._place = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._outcomes)

    async def get(self, grammar: Grammar) -> CompiledGrammar:
        """Compile, or find. Raises InvalidRequest with a sentence that says which part, EngineUnavailable where that
        can't be told now.
        """
        check_length(grammar)
        key = _digest(grammar)
        outcome = self._known(key)
        if outcome is None:
            await self._take_place()
            outcome = self._known(key)
            if outcome is None:
                outcome = await self._compile_in_place(key, grammar)
            else:
                self._place.release()
        if isinstance(outcome, str):
            raise InvalidRequest(outcome)
        return outcome

    def _known(self, key: bytes) -> Outcome | None:
        if key in self._outcomes:
            self._outcomes.move_to_end(key)
        return self._outcomes.get(key)

    async def _take_place(self) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._place.acquire()
        except TimeoutError:
            seconds = math.ceil(self._seconds)
            msg = f"Other grammars take long to be prepared, so this one could not be. Try again in {seconds} s."
            raise EngineUnavailable(msg, seconds) from None

    async def _compile_in_place(self, key: bytes, grammar: Grammar) -> Outcome:
        compiling = asyncio.get_running_loop().run_in_executor(None, self._outcome, grammar)
        compiling.add_done_callback(partial(self._keep, key))
        return await asyncio.shield(compiling)

    def _outcome(self, grammar: Grammar) -> Outcome:
        try:
            return self._compile(grammar)
        except InvalidRequest as error:
            return str(error)

    def _keep(self, key: bytes, compiled: asyncio.Future[Outcome]) -> None:
        self._place.release()
        if compiled.cancelled() or compiled.exception() is not None:
            return
        self._outcomes[key] = compiled.result()
        while len(self._outcomes) > self._most or (self._size > self._most_bytes and len(self._outcomes) > 1):
            self._outcomes.popitem(last=False)

    @property
    def _size(self) -> int:
        return sum(outcome.size for outcome in self._outcomes.values() if isinstance(outcome, CompiledGrammar))


def _digest(grammar: Grammar) -> bytes:
    json = isinstance(grammar, JsonGrammar)
    text = grammar.schema if json else grammar.lark
    return hashlib.blake2b(text.encode(errors="surrogatepass"), person=b"json" if json else b"lark").digest()
