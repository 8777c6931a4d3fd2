"""What a turn was asked for beside what was said: kept with conversations, for another answer to the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from quern.records import Fork
from quern.sampling import SamplingParams
from quern.turns.request import Caller, ChatInput, ToolUse, TurnRequest
from quern.types import Item, Language

_NO_TOOLS = ToolUse()


@dataclass(frozen=True, slots=True)
class Asked:
    """As in `ChatInput` and `TurnRequest`."""

    instructions: str | None = None
    tool_use: ToolUse = _NO_TOOLS
    schema: str | None = None
    language: Language | None = None
    prefill: str = ""
    stops: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: TurnRequest) -> Asked:
        """What a request asks for."""
        given = request.input
        if not isinstance(given, ChatInput):
            return cls(schema=given.schema, language=given.language, stops=request.stops)
        return cls(given.instructions, given.tool_use, given.schema, given.language, given.prefill, request.stops)

    @classmethod
    def load(cls, saved: dict[str, Any] | None) -> Asked:
        """What `dump` gave. Raises pydantic.ValidationError for anything else."""
        return cls() if saved is None else _ADAPTER.validate_python(saved)

    def dump(self) -> dict[str, Any] | None:
        """The same as JSON, without what is as usual; None where all of it is."""
        dumped: dict[str, Any] = _ADAPTER.dump_python(self, mode="json", exclude_defaults=True)
        return dumped or None

    def again(
        self, items: tuple[Item, ...], sampling: SamplingParams, caller: Caller, conversation_id: str, fork: Fork | None
    ) -> TurnRequest:
        """A request for another answer, to these items."""
        given = ChatInput(
            items,
            self.instructions,
            self.tool_use,
            schema=self.schema,
            language=self.language,
            schema_field="schema" if self.schema is not None or self.language is not None else None,
            items_field="content",
            prefill=self.prefill,
        )
        return TurnRequest(
            caller,
            given,
            sampling,
            remember=True,
            conversation_id=conversation_id,
            stops=self.stops,
            fit_answer=True,
            fork=fork,
        )


_ADAPTER = TypeAdapter(Asked)
