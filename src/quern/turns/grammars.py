"""Which grammar an answer is kept to, and why there is none."""

from __future__ import annotations

import asyncio
import heapq
import json
from contextlib import suppress

from quern.engine.base import Engine
from quern.errors import EngineUnavailable, InvalidRequest
from quern.grammar.grammar import Grammar
from quern.prompt.prompt import Prompt
from quern.turns.preparation import Prepared, callable_tools, demanded
from quern.turns.request import CallMode, ChatInput, TokenInput
from quern.types import Tool

MOST_SUSPECTS = 8
"""So many tools are looked at to find the one to blame: each costs the engine up to some seconds."""
SECONDS = 3.0
"""How long that may take for all of them."""


class Grammars:
    """Finds grammars that the engine can keep to. `seconds`: how long it looks for the reason why it can't."""

    def __init__(self, engine: Engine, prompt: Prompt, *, seconds: float = SECONDS) -> None:
        self._engine = engine
        self._prompt = prompt
        self._seconds = seconds

    async def choose(self, prepared: Prepared, given: ChatInput | TokenInput) -> Grammar | None:
        """The first of the prompt's grammars that the engine can keep to; None where there are none.

        Raises InvalidRequest, naming the field and the tool, where it can keep to none of them; EngineUnavailable where
        it can't tell now.
        """
        refusal: InvalidRequest | None = None
        for grammar in prepared.grammars:
            refusal = await self._refusal(grammar)
            if refusal is None:
                return grammar
        if refusal is None or not isinstance(given, ChatInput):
            return None
        if given.tool_use.mode is CallMode.REQUIRED:
            raise await self._tool_refusal(given, refusal) from refusal
        raise InvalidRequest(str(refusal), given.schema_field) from refusal

    async def _refusal(self, grammar: Grammar) -> InvalidRequest | None:
        try:
            await self._engine.check_grammar(grammar)
        except InvalidRequest as error:
            return error
        return None

    async def _tool_refusal(self, given: ChatInput, refusal: InvalidRequest) -> InvalidRequest:
        """The refusal of a call of any of the tools, as that of one tool's call where one to blame is found soon."""
        suspects = await asyncio.to_thread(self._suspects, given)
        with suppress(TimeoutError, EngineUnavailable):
            async with asyncio.timeout(self._seconds):
                for tool, grammar in suspects:
                    alone = await self._refusal(grammar)
                    if alone is not None:
                        blamed = (
                            f"A call of the tool {tool.name!r} can't be demanded, because of its parameters. {alone}"
                        )
                        return InvalidRequest(blamed, "tools")
        return InvalidRequest(str(refusal), "tools")

    def _suspects(self, given: ChatInput) -> list[tuple[Tool, Grammar]]:
        """The tools with the largest parameters, each with the least strict grammar of its calls."""
        if self._prompt.tool_format is None:
            return []
        tools = heapq.nlargest(
            MOST_SUSPECTS, callable_tools(given.tool_use), key=lambda tool: len(json.dumps(tool.parameters))
        )
        return [(tool, demanded(self._prompt.tool_format, [tool])[-1]) for tool in tools]
