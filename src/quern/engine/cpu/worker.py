"""The thread that owns the model: it loads it, then plans, computes and applies one step after the other.

Nobody else touches model or scheduler. Requests and cancellations reach it through an inbox, which it empties before
every step and sleeps at while there is nothing to compute; its notices leave through `Reports`, called in this thread.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Set
from dataclasses import dataclass

import structlog

from quern.engine.base import EmbedRequest, GenerateRequest
from quern.engine.cpu.model import LoadModel, Model, ModelSpec
from quern.engine.cpu.scheduler import Notice, Preempted, Scheduler, Step
from quern.engine.cpu.step_budget import Budget
from quern.errors import EngineFailed, ModelLoadError
from quern.grammar.compiler import Constraint
from quern.types import KvUsage, StepFacts

log = structlog.get_logger(__name__)

LOST = (
    "The engine failed while it computed this answer, so the answer was lost. Ask again; if it happens again, the "
    "server's log says more."
)


@dataclass(frozen=True, slots=True)
class Reports:
    """Who is called. `loading` gets the share that is done; then `loaded` or `failed` is called; then `notices`, and
    `step` after each step. `ended`: the thread ends after `loaded` although nobody has stopped it.
    """

    loading: Callable[[float], object]
    loaded: Callable[[ModelSpec], object]
    failed: Callable[[Exception], object]
    notices: Callable[[list[Notice]], object]
    step: Callable[[StepFacts], object]
    ended: Callable[[], object]


@dataclass(frozen=True, slots=True)
class _Submission:
    key: int
    request: GenerateRequest | EmbedRequest
    constraint: Constraint | None
    arrived: float


@dataclass(frozen=True, slots=True)
class _Cancellation:
    key: int


@dataclass(frozen=True, slots=True)
class _Oblivion:
    tags: Set[str]


class _Stop:
    """Wakes the thread for its end."""


class Worker:
    """`parallel` sequences at once, `shared_tokens` prompt tokens in a step that carries answers too. `kv`: what the KV
    cache holds, None while there is none.
    """

    def __init__(self, load: LoadModel, reports: Reports, *, parallel: int, shared_tokens: int) -> None:
        self._load = load
        self._reports = reports
        self._parallel = parallel
        self._budget = Budget(shared_tokens)
        self._inbox: queue.SimpleQueue[_Submission | _Cancellation | _Oblivion | _Stop] = queue.SimpleQueue()
        self._stopping = False
        self._stepping_since: float | None = None  # None while it sleeps
        self.kv: KvUsage | None = None
        self._thread = threading.Thread(target=self._run, name="quern-cpu-engine", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def submit(self, key: int, request: GenerateRequest | EmbedRequest, constraint: Constraint | None = None) -> None:
        """Generate, or embed; keys grow. `constraint`: how far the answer is in the request's grammar, if it has one;
        it belongs to the thread from now on.
        """
        self._inbox.put(_Submission(key, request, constraint, time.monotonic()))

    def cancel(self, key: int) -> None:
        """Drop a sequence before the next step."""
        self._inbox.put(_Cancellation(key))

    def forget(self, tags: Set[str]) -> None:
        """Drop what the KV cache holds for these tags alone, before the next step."""
        self._inbox.put(_Oblivion(tags))

    @property
    def silent_seconds(self) -> float:
        """How long the thread has been at what it does now; 0 while it sleeps."""
        since = self._stepping_since
        return time.monotonic() - since if since is not None else 0.0

    def stop(self) -> None:
        """End after the current step, or the loading at its next progress."""
        self._stopping = True
        self._inbox.put(_Stop())

    def join(self, seconds: float) -> bool:
        """Wait until the thread has ended and the model is freed; False where it hasn't in so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            model = self._load(self._on_progress)
        except Exception as error:  # noqa: BLE001 - it is raised where the engine is started
            self._reports.failed(error)
            return
        try:
            self._compute(model)
        except BaseException:  # whatever it is that no step may raise, whoever waits must hear of it
            log.exception("engine_thread_failed")
        if not self._stopping:
            self._reports.ended()

    def _compute(self, model: Model) -> None:
        spec = model.spec
        scheduler = Scheduler(
            blocks=spec.kv_blocks, block_tokens=spec.block_tokens, parallel=self._parallel, budget=self._budget
        )
        self.kv = scheduler.kv
        self._reports.loaded(spec)
        self._serve(model, scheduler)

    def _serve(self, model: Model, scheduler: Scheduler) -> None:
        busy = False
        while not self._stopping:
            try:
                self._read_inbox(model, scheduler, wait=not busy)
                busy = self._step(model, scheduler)
            except Exception:  # the thread must outlive any one step
                log.exception("step_failed", running=len(scheduler.running), waiting=len(scheduler.waiting))
                self._report(scheduler.lose(LOST))
                busy = True

    def _on_progress(self, share: float) -> None:
        if self._stopping:
            msg = "The engine was closed while it loaded the model."
            raise ModelLoadError(msg)
        self._reports.loading(share)

    def _read_inbox(self, model: Model, scheduler: Scheduler, *, wait: bool) -> None:
        """Do what the messages say."""
        notices: list[Notice] = []
        while wait or not self._inbox.empty():
            if wait:
                self._stepping_since = None
            wait = False
            message = self._inbox.get()
            self._stepping_since = time.monotonic()
            match message:
                case _Submission() as submission:
                    notices += _submit(model, scheduler, submission)
                case _Cancellation(key):
                    notices += scheduler.cancel(key)
                case _Oblivion(tags):
                    scheduler.forget(tags)
                case _Stop():
                    return
        self._report(notices)
        self.kv = scheduler.kv

    def _step(self, model: Model, scheduler: Scheduler) -> bool:
        """One step; False where nothing was left to compute."""
        began = self._stepping_since = time.monotonic()
        step = scheduler.plan(began)
        self._report(step.notices)
        if not step.parts:
            return False
        drawn = model.forward(step.parts)
        notices = scheduler.apply(step, drawn, time.monotonic())
        self.kv = scheduler.kv
        if notices:
            self._reports.notices(notices)
        self._reports.step(_facts(step, time.monotonic() - began))
        return True

    def _report(self, notices: list[Notice]) -> None:
        if notices:
            self._reports.notices(notices)


def _facts(step: Step, seconds: float) -> StepFacts:
    preempted = sum(isinstance(notice.event, Preempted) for notice in step.notices)
    return StepFacts(len(step.parts), sum(part.count for part in step.parts), preempted, seconds)


def _submit(model: Model, scheduler: Scheduler, submission: _Submission) -> list[Notice]:
    """Let a request join; one that can't be computed fails by itself, or it would take the whole step with it."""
    request = submission.request
    try:
        _check_ids(request, model.spec.vocabulary_size)
        embeds = isinstance(request, EmbedRequest)
        end = model.embedding() if embeds else model.sampler(request, submission.constraint)
        scheduler.submit(submission.key, request, end, submission.arrived)
    except Exception as error:  # noqa: BLE001 - whatever it is, its reader must hear of it
        return [Notice(submission.key, EngineFailed(f"This request can't be computed as it is: {error}"))]
    return []


def _check_ids(request: GenerateRequest | EmbedRequest, vocabulary_size: int) -> None:
    if not request.prompt or min(request.known) < 0 or max(request.known) >= vocabulary_size:
        msg = f"A prompt has one token or more, with ids from 0 to {vocabulary_size - 1}."
        raise ValueError(msg)
