"""All that a turn is made of but its prompt: what begins it, tells its answer again, and goes on with it later."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from quern.engine.base import GenerateRequest, Logprob, Priority
from quern.errors import InvalidRequest
from quern.events import TurnEvent
from quern.grammar.kinds import Grammar
from quern.prompt.codec import TextCodec
from quern.sampling import SamplingParams
from quern.turns.decoder import AlignedLogprobs, AnswerDecoder, OutputParser
from quern.turns.loops import RepeatedCall
from quern.turns.preparation import Prepared, call_parser
from quern.turns.request import ChatInput, ToolUse, TurnRequest
from quern.types import DisconnectPolicy

SEED_BITS = 62
"""Of a seed that nobody asked for: any that a request may have."""


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """`tool_use`: the tools that the model was shown, where it was asked in a chat. `disconnect`: None takes the
    settings' policy. `sampling.max_tokens`: of the whole answer. `prefill`: how the answer began before it. `kept`:
    what is said outlives the turn; with `keeps_events` also how its text came. `fitted`: the answer gets less room than
    was asked for, as there is no more. `ignored`: what schemas ask and the answer isn't kept to, as sentences. `keyed`:
    a retry will find the turn by a key. The others: as in `TurnRequest` and `Prepared`.
    """

    sampling: SamplingParams
    stop_token_ids: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()
    grammar: Grammar | None = None
    tool_use: ToolUse | None = None
    single_call: bool = False
    repeated: RepeatedCall | None = None
    prefill: str = ""
    priority: Priority = Priority.NORMAL
    disconnect: DisconnectPolicy | None = None
    kept: bool = False
    keeps_events: bool = False
    fitted: bool = False
    ignored: tuple[str, ...] = ()
    keyed: bool = False

    @classmethod
    def of(cls, request: TurnRequest, prepared: Prepared, grammar: Grammar | None, room: int) -> TurnPlan:
        """What a request asks for; `room`: for the answer, in tokens."""
        chat = request.input if isinstance(request.input, ChatInput) else None
        return cls(
            sampling=replace(request.sampling, max_tokens=room),
            stop_token_ids=prepared.stop_token_ids,
            stops=request.stops,
            grammar=grammar,
            tool_use=chat.tool_use if chat is not None else None,
            single_call=prepared.single_call,
            repeated=prepared.repeated,
            prefill=chat.prefill if chat is not None else "",
            priority=request.priority_asked,
            disconnect=request.caller.disconnect,
            kept=request.kept,
            keeps_events=request.response is not None and request.response.background,
            fitted=room < request.sampling.max_tokens,
            ignored=prepared.ignored,
            keyed=request.key is not None,
        )

    def seeded(self, check: Callable[[GenerateRequest], None]) -> TurnPlan:
        """With a seed, where none was asked for and the engine can go on with one (`Engine.check_continuable`): what
        was told but not saved when the server was killed is then drawn again as it was.
        """
        if self.sampling.seed is not None or self.sampling.temperature <= 0:
            return self
        seeded = replace(self.sampling, seed=new_seed())
        try:
            check(GenerateRequest((0,), seeded, grammar=self.grammar))
        except InvalidRequest:
            return self
        return replace(self, sampling=seeded)

    @classmethod
    def load(cls, saved: dict[str, Any]) -> TurnPlan:
        """The plan that `dump` gave. Raises pydantic.ValidationError for anything else."""
        return _ADAPTER.validate_python(saved)

    def dump(self) -> dict[str, Any]:
        """The plan as JSON."""
        dumped: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return dumped

    def decoder(self, codec: TextCodec, turn_id: str) -> AnswerDecoder:
        """What reads the answer of the turn of this id, from its first token on."""
        parser = call_parser(codec, self.tool_use, turn_id) if self.tool_use is not None else None
        return AnswerDecoder(
            codec.incremental_text(self.stops),
            OutputParser(parser, single_call=self.single_call, repeated=self.repeated),
            AlignedLogprobs(codec.tokenizer.token_bytes) if self.sampling.logprobs is not None else None,
            stored=self.kept,
        )


_ADAPTER = TypeAdapter(TurnPlan)


def new_seed() -> int:
    """A seed that nobody can foresee."""
    return secrets.randbits(SEED_BITS)


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer's tokens were told as: the piece of text that each brought, and all of the events."""

    pieces: list[str]
    events: list[TurnEvent]


def tell_again(decoder: AnswerDecoder, generated: Sequence[int], logprobs: Sequence[Logprob] = ()) -> Told:
    """Read an answer's tokens as they were read when they came, one by one. `logprobs`: of the last of them, as far as
    they are known.

    Takes microseconds for each token, so call it in a thread.
    """
    told = Told([], [])
    unknown = len(generated) - len(logprobs)
    for index, token_id in enumerate(generated):
        of_it = (logprobs[index - unknown],) if index >= unknown else None
        decoded = decoder.decode((token_id,), of_it)
        told.pieces.append(decoded.text)
        told.events.extend(decoded.events)
    return told
