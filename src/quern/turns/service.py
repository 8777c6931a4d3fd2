"""The one way into a turn: every dialect starts, reads and ends turns here."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from quern.config import TurnSettings
from quern.engine.base import Engine, EngineState, GenerateRequest, Priority
from quern.errors import ConversationBusy, ConversationNotFound, EngineUnavailable, QueueFull
from quern.prompt.prompt import Prompt
from quern.store.conversations import ConversationStore
from quern.store.turns import NewTurn, TurnStore
from quern.turns.budget import Progress, TurnLengths, check_context, retry_after
from quern.turns.events import TurnEnded
from quern.turns.journal import Journal
from quern.turns.runner import TurnRunner
from quern.turns.turn import Abandonment, Turn
from quern.types import DisconnectPolicy, Message, Role, SamplingParams, TurnState

log = structlog.get_logger(__name__)

LOADING_RETRY_AFTER = 5
STOPPED = "The server was stopped while this turn was running."
BUSY = (
    "A turn of this conversation is still running, and turns never interleave. Wait until its answer is complete, "
    "then send this prompt again."
)
NOT_FOUND = (
    "There is no such conversation. Send a conversation_id exactly as the server gave it, or leave it out to begin a "
    "new conversation."
)


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a caller asks for. `conversation_id=None` with `remember` begins a conversation; without it the turn is one
    shot. `disconnect=None` takes the policy from the settings.
    """

    owner: str
    request_id: str
    prompt: str
    sampling: SamplingParams
    remember: bool
    conversation_id: str | None = None
    stops: tuple[str, ...] = ()
    disconnect: DisconnectPolicy | None = None


class TurnService:
    """Admits turns, runs them apart from their connections, and ends them all when the server stops."""

    def __init__(
        self,
        *,
        engine: Engine,
        prompt: Prompt,
        conversations: ConversationStore,
        turns: TurnStore,
        settings: TurnSettings,
    ) -> None:
        self._engine = engine
        self._prompt = prompt
        self._conversations = conversations
        self._store = turns
        self._settings = settings
        self._journal = Journal(turns, interval=settings.save_interval_ms / 1000, token_limit=settings.save_tokens)
        self._runner = TurnRunner(engine, turns, self._journal)
        self._lengths = TurnLengths()
        self._active: dict[str, Turn] = {}
        self._starting = 0
        self._admitting: set[str] = set()
        self._stopping = False
        self._tasks: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Serve turns while the block runs; what is still active at its end is interrupted and saved."""
        interrupted = await self._store.recover_interrupted(datetime.now(UTC))
        if interrupted:
            log.warning("interrupted_turns_found", turns=interrupted)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            writer = tasks.create_task(self._journal.run())
            try:
                yield
            finally:
                await self.drain(0)
                writer.cancel()
                self._give_up_saving()

    async def start(self, request: TurnRequest) -> Turn:
        """Admit a turn: when this returns, the turn is stored as queued and runs whoever listens.

        Raises EngineUnavailable, ConversationNotFound, ConversationBusy, QueueFull, ContextExceeded, InvalidRequest
        or StoreError; then nothing was stored.
        """
        self.check_serving()
        if request.conversation_id is not None:
            await self._check_conversation(request.conversation_id, request.owner)
        with self._alone_in(request.conversation_id), self._place():
            history = await self._history(request)
            prompt = await asyncio.to_thread(self._prompt.encode_chat, [*history, Message(Role.USER, request.prompt)])
            check_context(len(prompt), request.sampling.max_tokens, self._engine.info.context_length)
            turn = self._turn(request, prompt)
            await self._store.create(self._record(turn, request))
            return self._launch(turn)

    def running_turn(self, conversation_id: str, owner: str) -> Turn | None:
        """The conversation's active turn, for a reader that comes back."""
        for turn in self.running_turns(owner):
            if turn.conversation_id == conversation_id:
                return turn
        return None

    def running_turns(self, owner: str) -> list[Turn]:
        """The owner's active turns of conversations."""
        return [turn for turn in self._active.values() if turn.owner == owner and turn.conversation_id is not None]

    async def cancel(self, turn: Turn, reason: str) -> None:
        """End a turn as cancelled and wait until that is stored."""
        turn.end_early(TurnState.CANCELLED, reason)
        await turn.log.ended()

    @property
    def stopping(self) -> bool:
        """Whether new turns are refused because the server is about to stop."""
        return self._stopping

    @property
    def active(self) -> int:
        """How many turns are queued or running."""
        return len(self._active)

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new turns, let active ones finish for `grace_seconds`, then end the rest as interrupted."""
        self._stopping = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_ended(), grace_seconds)
        self.interrupt()
        await self._all_ended()

    def interrupt(self) -> None:
        """End every active turn as interrupted, at once."""
        self._stopping = True
        for turn in self._unended():
            turn.end_early(TurnState.INTERRUPTED, STOPPED)

    async def _all_ended(self) -> None:
        for turn in self._unended():
            await turn.log.ended()

    def _give_up_saving(self) -> None:
        for turn in self._active.values():
            if turn.life is not None:
                turn.life.cancel()

    def _unended(self) -> list[Turn]:
        return [turn for turn in self._active.values() if turn.log.end is None]

    def check_serving(self) -> None:
        """Raise EngineUnavailable, with the seconds to wait, while no turn can be taken."""
        if self._stopping:
            msg = "The server is about to stop and takes no new turns. Try again once it is back."
            raise EngineUnavailable(msg, LOADING_RETRY_AFTER)
        stats = self._engine.stats()
        if stats.state is EngineState.READY:
            return
        seconds = max(1, round(stats.load_remaining)) if stats.load_remaining > 0 else LOADING_RETRY_AFTER
        doing = "restarting after a failure" if stats.state is EngineState.RESTARTING else "still loading"
        msg = f"The model is {doing}. Try again in {seconds} s."
        raise EngineUnavailable(msg, seconds)

    async def _check_conversation(self, conversation_id: str, owner: str) -> None:
        if await self._conversations.get(conversation_id, owner) is None:
            raise ConversationNotFound(NOT_FOUND)

    @contextmanager
    def _place(self) -> Generator[None]:
        """Hold a place among the active turns while one is being admitted."""
        limit = self._engine.info.parallel + self._settings.max_queued
        if len(self._active) + self._starting >= limit:
            seconds = self._retry_after()
            msg = f"All {limit} places are taken: every running and waiting turn counts. Try again in {seconds} s."
            raise QueueFull(msg, seconds)
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    @contextmanager
    def _alone_in(self, conversation_id: str | None) -> Generator[None]:
        """Admit one turn of a conversation at a time, so that the history it was given stays the latest."""
        if conversation_id is None:
            yield
            return
        active = any(turn.conversation_id == conversation_id for turn in self._active.values())
        if active or conversation_id in self._admitting:
            raise ConversationBusy(BUSY)
        self._admitting.add(conversation_id)
        try:
            yield
        finally:
            self._admitting.discard(conversation_id)

    def _retry_after(self) -> int:
        now = time.monotonic()
        running = [
            Progress(turn.generated_tokens, now - turn.first_token_at, turn.request.sampling.max_tokens)
            for turn in self._active.values()
            if turn.first_token_at is not None
        ]
        return retry_after(running, self._lengths.typical)

    async def _history(self, request: TurnRequest) -> list[Message]:
        if request.conversation_id is None:
            return []
        return await self._conversations.history(request.conversation_id)

    def _turn(self, request: TurnRequest, prompt: tuple[int, ...]) -> Turn:
        conversation_id = request.conversation_id
        if conversation_id is None and request.remember:
            conversation_id = str(uuid.uuid4())
        default = self._settings.conversation_disconnect if request.remember else self._settings.one_shot_disconnect
        return Turn(
            str(uuid.uuid4()),
            owner=request.owner,
            conversation_id=conversation_id,
            request=GenerateRequest(
                prompt=prompt,
                sampling=request.sampling,
                stop_token_ids=self._prompt.stop_token_ids,
                priority=Priority.NORMAL,
                cache_salt=request.owner,
            ),
            incremental_text=self._prompt.incremental_text(request.stops),
            abandonment=Abandonment(request.disconnect or default, self._settings.hold_seconds),
        )

    def _record(self, turn: Turn, request: TurnRequest) -> NewTurn:
        return NewTurn(
            id=turn.id,
            owner=turn.owner,
            request_id=request.request_id,
            model_id=self._engine.info.model_id,
            prompt=request.prompt,
            sampling=request.sampling,
            created_at=datetime.now(UTC),
            conversation_id=turn.conversation_id,
            new_conversation=request.conversation_id is None,
        )

    def _launch(self, turn: Turn) -> Turn:
        if self._tasks is None:
            msg = "turns start inside TurnService.running() only"
            raise RuntimeError(msg)
        self._active[turn.id] = turn
        turn.life = self._tasks.create_task(self._run(turn))
        if self._stopping:
            turn.end_early(TurnState.INTERRUPTED, STOPPED)
        return turn

    async def _run(self, turn: Turn) -> None:
        try:
            await self._runner.run(turn)
        except Exception as error:  # one turn's bug must not end the others, nor leave its readers waiting
            log.exception("turn_crashed", turn=turn.id)
            if turn.log.end is None:
                turn.log.append(TurnEnded(TurnState.FAILED, error=f"{type(error).__name__}: {error}"))
        finally:
            del self._active[turn.id]
        if turn.log.end is not None and turn.log.end.state is TurnState.COMPLETED:
            self._lengths.add(turn.log.end.usage.completion_tokens)
