"""Which grammar an answer is kept to: the first one that can be, or a refusal that names what is to blame."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from quern.errors import EngineUnavailable, InvalidRequest
from quern.grammar.kinds import Grammar
from quern.grammar.tool_calls import ToolFormat, demanded_call
from quern.types import Tool

MOST_SUSPECTS = 8
"""So many tools are looked at to find the one to blame: each costs the engine up to some seconds."""
SECONDS = 3.0
"""How long that may take for all of them."""

Check = Callable[[Grammar, str], Awaitable[object]]
"""Of a grammar that an owner asks for. Raises InvalidRequest where it can't be kept to, EngineUnavailable where that
can't be told now.
"""


class GrammarChoice:
    """Finds grammars that an engine can keep to, by its `check`.

    `format`: how its model writes calls, None where it knows no tools. `seconds`: how long to look for the reason why a
    call can't be demanded.
    """

    def __init__(self, check: Check, format: ToolFormat | None, *, seconds: float = SECONDS) -> None:  # noqa: A002
        self._check = check
        self._format = format
        self._seconds = seconds

    async def choose(
        self, grammars: Sequence[Grammar], field: str | None = None, tools: Sequence[Tool] = (), *, owner: str = ""
    ) -> Grammar | None:
        """The first that can be kept to; None where there are none.

        `field`: the request's that asks for it. `tools`: those of which it demands a call, if that is what it demands.
        `owner`: who asks.
        Raises InvalidRequest with the field and the tool, where none can be kept to; EngineUnavailable where that can't
        be told now.
        """
        refusal: InvalidRequest | None = None
        for grammar in grammars:
            refusal = await self._refusal(grammar, owner)
            if refusal is None:
                return grammar
        if refusal is None:
            return None
        blamed = await self._blamed(tools, owner) if tools else None
        raise InvalidRequest(blamed or str(refusal), field) from refusal

    async def _refusal(self, grammar: Grammar, owner: str) -> InvalidRequest | None:
        try:
            await self._check(grammar, owner)
        except InvalidRequest as error:
            return error
        return None

    async def _blamed(self, tools: Sequence[Tool], owner: str) -> str | None:
        """The refusal of a call of one of the tools alone, where one to blame is found soon."""
        suspects = await asyncio.to_thread(self._suspects, tools)
        with suppress(TimeoutError, EngineUnavailable):
            async with asyncio.timeout(self._seconds):
                for tool, grammar in suspects:
                    alone = await self._refusal(grammar, owner)
                    if alone is not None:
                        return f"A call of the tool {tool.name!r} can't be demanded, because of its parameters. {alone}"
        return None

    def _suspects(self, tools: Sequence[Tool]) -> list[tuple[Tool, Grammar]]:
        """The tools with the largest parameters, each with the least strict grammar of its calls."""
        if self._format is None:
            return []
        largest = heapq.nlargest(MOST_SUSPECTS, tools, key=lambda tool: len(json.dumps(tool.parameters)))
        return [(tool, demanded_call(self._format, [tool])[-1]) for tool in largest]
