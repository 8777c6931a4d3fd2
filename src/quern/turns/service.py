"""The one way into a turn: every dialect starts, reads and ends turns here."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta

import structlog

from quern.access.usage import UsageMeter
from quern.config import TurnSettings
from quern.engine.base import EngineState
from quern.errors import EngineUnavailable, InvalidRequest, TurnNotContinuable
from quern.events import TurnEnded
from quern.obs.metrics import Metrics
from quern.obs.tracing import Tracing
from quern.store.idempotency import IdempotencyStore, NewKey
from quern.store.journal_file import JournalFile
from quern.store.turns import TurnStore
from quern.turns.archive import RUNS, SERVER_STOPPED, Ended, TurnArchive
from quern.turns.context_limit import room_for_answer
from quern.turns.conversation_guard import ConversationGuard
from quern.turns.disconnect_policy import CONNECTION_CLOSED
from quern.turns.drain import Drain
from quern.turns.elsewhere import Elsewhere
from quern.turns.history import HistoryLoader, with_custom_results
from quern.turns.journal import Journal
from quern.turns.models import Models, ServedModel
from quern.turns.new_turn import Assignment, conversation_of, live_turn, new_row
from quern.turns.observer import TurnObserver
from quern.turns.owner_turns import OwnerTurns
from quern.turns.plan import TurnPlan
from quern.turns.preparation import check_ids
from quern.turns.queue_limit import Places
from quern.turns.recent import Said
from quern.turns.request import Caller, ChatInput, TurnRequest
from quern.turns.retries import Retries
from quern.turns.retry_after import Progress
from quern.turns.runner import TAKEN_OVER, TurnRunner
from quern.turns.titles import title_of
from quern.turns.turn import Turn
from quern.types import AttachedBy, Item, TurnState

log = structlog.get_logger(__name__)

LOADING_RETRY_AFTER = 5
DOING = {
    EngineState.RESTARTING: "is restarting after a failure",
    EngineState.STUCK: "is stuck (engine.stuck_seconds); unless it goes on by itself, the server has to be restarted",
}
PLACE_NEEDED = f"{CONNECTION_CLOSED}, and too many turns wait for a reader that comes back."


class TurnService:
    """Admits turns, runs them apart from their connections, and ends them all when the server stops. `observer` is told
    of each, and so is `when_ended` of those that have ended. `titles`: whether a conversation without a title gets one
    from what is said first. `journal_file`: as in `Journal`.
    """

    def __init__(
        self,
        *,
        models: Models,
        history: HistoryLoader,
        turns: TurnStore,
        archive: TurnArchive,
        elsewhere: Elsewhere,
        keys: IdempotencyStore,
        usage: UsageMeter,
        metrics: Metrics,
        tracing: Tracing | None = None,
        settings: TurnSettings,
        titles: bool = True,
        journal_file: JournalFile | None = None,
    ) -> None:
        self._models = models
        self._usage = usage
        self._active: dict[str, Turn] = {}
        self.observer = TurnObserver(metrics, self._active.values, tracing)
        self._history = history
        self._store = turns
        self._archive = archive
        self._titles = titles
        self.when_ended: Callable[[Turn], None] | None = None
        self._settings = settings
        self._journal = Journal(
            turns,
            interval=settings.save_interval_ms / 1000,
            token_limit=settings.save_tokens,
            file=journal_file,
            commit_interval=settings.commit_interval_ms / 1000,
        )
        self.owner_turns = OwnerTurns(usage)
        resumable = timedelta(hours=settings.resume_hours)
        self._runner = TurnRunner(turns, self._journal, self.owner_turns, self.observer, resumable=resumable)
        self._places = Places(usage, self._progress)
        self._conversations = ConversationGuard()
        self._retries = Retries(self, keys, archive, elsewhere, settings)
        self._drain = Drain(self._active.values)
        self._tasks: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Serve turns while the block runs; what is still active at its end is interrupted and saved."""
        await self._journal.recover()
        await self.take_over()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            writer = tasks.create_task(self._journal.run())
            forgetting = tasks.create_task(self._archive.forget())
            try:
                yield
            finally:
                await self.drain(0)
                writer.cancel()
                forgetting.cancel()
                self._drain.give_up()
                await self._journal.close()

    async def take_over(self) -> int:
        """End turns of servers that were lost as interrupted, as `TurnStore.recover_interrupted` says; how many. Raises
        StoreError.
        """
        now = datetime.now(UTC)
        expires_at = now + timedelta(hours=self._settings.resume_hours)
        interrupted = await self._store.recover_interrupted(now, SERVER_STOPPED, expires_at)
        if interrupted:
            log.warning("interrupted_turns_found", turns=interrupted)
        return interrupted

    def disown(self) -> None:
        """Write no more of the turns that run: other servers take this one for lost, and may go on with them."""
        for turn in self._active.values():
            turn.end_early(TurnState.INTERRUPTED, TAKEN_OVER)

    def reload(self, settings: TurnSettings) -> None:
        """Admit turns under other limits from now on; those that were admitted go on."""
        self._settings = settings

    async def start(self, request: TurnRequest) -> Turn:
        """The turn of a request. A retry gets the turn of the request that it repeats, which may have ended.

        Raises KeyReused, and what `start_new` and `resume` raise, but TurnNotFound and TurnNotContinuable.
        """
        return (await self.start_all([request]))[0]

    async def start_all(self, requests: Sequence[TurnRequest]) -> list[Turn]:
        """The same for all turns of one HTTP request. Where one is refused, none goes on."""
        return await self._retries.turns_of(requests)

    def connection_lost(self, caller: Caller) -> None:
        """The client of a request has gone before its answer was whole; it may come back and ask again."""
        self._retries.connection_lost(caller)

    def attached(self, by: AttachedBy, caller: Caller) -> None:
        """A retry got turns that were there; its request's id names the last of them too."""
        self.observer.attached(by)
        self.observer.recent.retried(caller.owner, caller.request_id, caller.adopted[-1])

    def tell(self, ended: Ended, caller: Caller) -> Turn:
        """A turn that has ended, or runs elsewhere, to be read."""
        turn = self._live(ended.record.id, ended.model, ended.assignment(), caller)
        ended.fill(turn)
        return turn

    async def start_new(self, request: TurnRequest) -> Turn:
        """Admit a turn: when this returns, the turn is stored as queued and runs whoever listens.

        Raises EngineUnavailable, ConversationNotFound, ResponseNotFound, ConversationBusy, LimitExceeded, QueueFull,
        ContextExceeded, StorageExceeded, InvalidRequest or StoreError; then nothing was stored.
        """
        arrived, owner, model = time.monotonic(), request.caller.owner, self._models.find(request.model)
        await self.reach(model)
        check_ids(request.sampling.logit_bias, model.codec.vocabulary_size, "logit_bias")
        active = self._active.values()
        self._end_held(model)
        with (
            self._drain.admission(),
            self._conversations.alone_in(request.conversation_id, request.caller.owner, active),
        ):
            history = await self._history.load(request)
            with self._places.place(
                request.caller, model, request.priority_asked, active, max_queued=self._settings.max_queued
            ):
                prepared = await model.prompts.prepare(history, request.input, self._settings.loop_calls)
                grammar = await model.grammars.choose(
                    prepared.grammars, prepared.grammar_field, prepared.demanded, owner=owner
                )
                room = room_for_answer(
                    len(prepared.ids),
                    request.sampling.max_tokens,
                    model.info.context_length,
                    fit=request.fit_answer,
                )
                plan = TurnPlan.of(request, prepared, grammar, room)
                if self._settings.resume_hours:
                    plan = plan.seeded(model.engine.check_continuable)
                said = Said(tuple(history), request.input)
                assignment = Assignment(plan, prepared.ids, said, arrived, conversation_of(request))
                turn = self._live(str(uuid.uuid4()), model, assignment, request.caller)
                await self._store_queued(turn, request, history)
                return self._launch(turn, request.caller)

    async def go_on(self, turn_id: str, caller: Caller, more_tokens: int | None = None) -> Turn:
        """Go on with a turn; a retry gets it as it goes on for the request that it repeats, or as it ended then.

        Raises KeyReused, and what `resume` raises.
        """
        return await self._retries.go_on(turn_id, caller, more_tokens)

    async def resume(
        self, turn_id: str, caller: Caller, more_tokens: int | None = None, key: NewKey | None = None
    ) -> Turn:
        """Go on with a turn that was interrupted, cancelled, failed or stopped by its length, at the token where it
        stopped; `more_tokens`: as in `TurnArchive.stopped`; `key`: under which a retry finds it. When this returns, it
        is queued as `start` says.

        Raises EngineUnavailable, TurnNotFound, TurnNotContinuable, ConversationBusy, LimitExceeded, QueueFull,
        ContextExceeded, InvalidRequest or StoreError; then it is as it was.
        """
        if self.turn(turn_id, caller.owner) is not None:
            raise TurnNotContinuable(RUNS)
        record = await self._archive.record([turn_id], caller.owner)
        model = self._archive.model_of(record)
        await self.reach(model)
        stopped = await self._archive.stopped(record, model.info.context_length, more_tokens)
        active = self._active.values()
        self._end_held(model)
        with (
            self._drain.admission(),
            self._conversations.alone_in(stopped.record.conversation_id, caller.owner, active),
            self._places.place(caller, model, stopped.plan.priority, active, max_queued=self._settings.max_queued),
        ):
            if stopped.plan.grammar is not None:
                await model.engine.check_grammar(stopped.plan.grammar, caller.owner)
            turn = self._live(turn_id, model, stopped.assignment(keyed=key is not None), caller)
            model.engine.check_continuable(turn.request)
            await self._journal.reopen(turn_id)
            await self._store.reopen(await stopped.revive(turn, key))
            return self._launch(turn, caller)

    def _live(self, turn_id: str, model: ServedModel, assignment: Assignment, caller: Caller) -> Turn:
        part = self.owner_turns.part_here(caller.owner)
        return live_turn(turn_id, model, assignment, caller, settings=self._settings, part=part)

    async def count_tokens(self, model: ServedModel, given: ChatInput) -> int:
        """How many tokens a prompt would have. Raises EngineUnavailable, InvalidRequest and ContextExceeded."""
        await self.reach(model)
        return len((await model.prompts.prepare([], given)).ids)

    async def count_prompt(self, request: TurnRequest) -> int:
        """How many tokens the prompt of a turn would have, with all that it builds on.

        Raises EngineUnavailable, ConversationNotFound, ResponseNotFound, ConversationBusy, InvalidRequest or
        ContextExceeded.
        """
        model = self._models.find(request.model)
        await self.reach(model)
        history = await self._history.load(request)
        return len((await model.prompts.prepare(history, request.input)).ids)

    @contextmanager
    def between_turns(self, conversation_id: str, owner: str) -> Generator[None]:
        """Change what was said in a conversation while no turn of it runs or begins. Raises ConversationBusy."""
        with self._conversations.changing(conversation_id, owner, self._active.values()):
            yield

    def turn(self, turn_id: str, owner: str) -> Turn | None:
        """An active turn."""
        turn = self._active.get(turn_id)
        return turn if turn is not None and turn.owner == owner else None

    def running_turn(self, conversation_id: str, owner: str) -> Turn | None:
        """The conversation's active turn, for a reader that comes back."""
        return next((turn for turn in self.turns_of(owner) if turn.conversation_id == conversation_id), None)

    def turns_of(self, owner: str) -> list[Turn]:
        """All of the owner's active turns."""
        return [turn for turn in self._active.values() if turn.owner == owner]

    def all_active(self) -> list[Turn]:
        """Everybody's active turns, the oldest first."""
        return list(self._active.values())

    def expected_wait(self, turn: Turn, position: int) -> float | None:
        """About how many seconds it waits yet, so far back in line; None where nobody can tell."""
        return self._places.wait(turn, position)

    async def cancel(self, turn: Turn, reason: str) -> None:
        """End a turn as cancelled and wait until that is stored."""
        turn.end_early(TurnState.CANCELLED, reason)
        await turn.log.ended()

    def cancel_asked(self, turn_ids: Iterable[str], reason: str) -> None:
        """Somebody wants turns cancelled; those that run here are."""
        for turn_id in turn_ids:
            if turn_id in self._active:
                self._active[turn_id].end_early(TurnState.CANCELLED, reason)

    def forget(self, deleted: Iterable[str]) -> None:
        """Forget what is kept in memory of deleted conversations, and of turns without one, by their ids: the KV cache
        that they alone used, and what their turns were made of.
        """
        tags = frozenset(deleted)
        if tags:
            self.observer.recent.forget(tags)
            for model in self._models:
                model.engine.forget(tags)

    @property
    def stopping(self) -> bool:
        """Whether new turns are refused because the server is about to stop."""
        return self._drain.stopping

    @property
    def active(self) -> int:
        """How many turns are queued or running."""
        return len(self._active)

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new turns, let active ones finish for `grace_seconds`, then end the rest as interrupted."""
        await self._drain.drain(grace_seconds)

    def interrupt(self) -> None:
        """End every active turn as interrupted, at once."""
        self._drain.interrupt()

    def _end_held(self, model: ServedModel) -> None:
        """End the oldest of those that go on without a reader, where there are more than a model has places."""
        held = [turn for turn in self._active.values() if turn.held and turn.model is model]
        for turn in held[: max(0, len(held) - model.info.parallel - self._settings.max_queued)]:
            turn.end_early(TurnState.CANCELLED, PLACE_NEEDED)

    async def reach(self, model: ServedModel) -> None:
        """Return once a turn of a model can be taken and what it serves is known, which may take its first load. Raises
        EngineUnavailable as `check_serving` does.
        """
        self.check_serving(model)
        await model.known()

    def check_serving(self, model: ServedModel) -> None:
        """Raise EngineUnavailable, with the seconds to wait, while no turn of a model can be taken."""
        if self._drain.stopping:
            msg = "The server is about to stop and takes no new turns. Try again once it is back."
            raise EngineUnavailable(msg, LOADING_RETRY_AFTER)
        if model.available:
            return
        stats = model.engine.stats()
        seconds = max(1, round(stats.load_remaining)) if stats.load_remaining > 0 else LOADING_RETRY_AFTER
        doing = DOING.get(stats.state, "is still loading")
        raise EngineUnavailable(f"The model {doing}. Try again in {seconds} s.", seconds)

    def _progress(self, owner: str | None, model: ServedModel | None) -> list[Progress]:
        """How far the turns are that run, of one owner or of one model."""
        now = time.monotonic()
        return [
            Progress(turn.generated_tokens, now - turn.first_token_at, turn.request.sampling.max_tokens)
            for turn in self._active.values()
            if turn.first_token_at is not None and owner in {None, turn.owner} and model in {None, turn.model}
        ]

    async def _store_queued(self, turn: Turn, request: TurnRequest, history: Sequence[Item]) -> None:
        given = request.input
        items, field = (given.items, given.items_field) if isinstance(given, ChatInput) else ((), None)
        try:
            title = title_of((*history, *items)) if self._titles and turn.conversation_id is not None else None
            said = with_custom_results(items, history)
            quota = self._usage.storage_quota(turn.owner)
            row = await asyncio.to_thread(new_row, turn, request, said, title=title, quota=quota)
            await self._store.create(row)
        except InvalidRequest as error:
            raise InvalidRequest(str(error), field) from error

    def _launch(self, turn: Turn, caller: Caller) -> Turn:
        if self._tasks is None:
            msg = "turns start inside TurnService.running() only"
            raise RuntimeError(msg)
        self._active[turn.id] = turn
        caller.turn_ids.append(turn.id)
        turn.life = self._tasks.create_task(self._run(turn))
        self._drain.launched(turn)
        return turn

    async def _run(self, turn: Turn) -> None:
        try:
            await self._runner.run(turn)
        except Exception as error:  # one turn's bug must not end the others, nor leave its readers waiting
            log.exception("turn_crashed", turn=turn.id)
            if turn.log.end is None:
                turn.log.append(TurnEnded(TurnState.FAILED, error=f"{type(error).__name__}: {error}"))
        finally:
            self._account(turn)
            del self._active[turn.id]
            self.observer.ended(turn)
            if self.when_ended is not None:
                self.when_ended(turn)

    def _account(self, turn: Turn) -> None:
        """Count what an ended turn has cost, and that its place is free."""
        end = turn.log.end
        if end is not None:
            used, before = end.usage, len(turn.request.generated)
            self._usage.charge(
                turn.principal, used.prompt_tokens - used.cached_tokens + used.completion_tokens - before
            )
        length = end.usage.completion_tokens if end is not None and end.state is TurnState.COMPLETED else None
        self._places.ended(turn, self._active.values(), length)
