"""Which grammar an answer is kept to, and why there is none."""

from __future__ import annotations

from quern.engine.base import Engine, Grammar
from quern.errors import InvalidRequest
from quern.prompt.prompt import Prompt
from quern.turns.preparation import Prepared, callable_tools, demanded
from quern.turns.request import CallMode, ChatInput, TokenInput


class Grammars:
    """Finds grammars that the engine can keep to."""

    def __init__(self, engine: Engine, prompt: Prompt) -> None:
        self._engine = engine
        self._prompt = prompt

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
        """The refusal of a call of any of the tools, as that of one tool's call where there is one to blame."""
        for tool in callable_tools(given.tool_use):
            if self._prompt.tool_format is None:
                break
            alone = await self._refusal(demanded(self._prompt.tool_format, [tool])[-1])
            if alone is not None:
                message = f"A call of the tool {tool.name!r} can't be demanded, because of its parameters. {alone}"
                return InvalidRequest(message, "tools")
        return InvalidRequest(str(refusal), "tools")
