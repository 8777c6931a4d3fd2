"""Showing how far a long operation is, on standard error: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from quern.models.progress import Progress as ModelProgress
from quern.models.progress import format_bytes

QUIET_SECONDS = 1.0
LINES_PER_PHASE = 10
LOADING_PHASE = "Loading the model"
LOADING_STEPS = 1000


class ProgressDisplay(ModelProgress, Protocol):
    """Shows what the models room tells, and an engine's loading. May be called from any thread."""

    def loading(self, fraction: float) -> None:
        """How much of the model is loaded, 0 to 1."""
        ...


@contextmanager
def progress_display(console: Console | None = None) -> Generator[ProgressDisplay]:
    """A display for the time of the `with` block; a bar leaves nothing behind on the screen."""
    console = console or Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        _SpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield _Bars(bars)


class Milestones:
    """Decides which updates are worth a line: not more than ten of a phase, nor more than one a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase = ""
        self._step = 0
        self._reported_at = 0.0

    def reached(self, phase: str, done: int, total: int | None) -> bool:
        """Whether this update should be reported. The end of a phase always is, once."""
        if phase != self._phase:
            self._phase, self._step, self._reported_at = phase, 0, self._clock()
        step = done * LINES_PER_PHASE // total if total else 1
        finished = total is not None and step >= LINES_PER_PHASE
        if step > self._step and (finished or self._clock() - self._reported_at >= QUIET_SECONDS):
            self._step, self._reported_at = step, self._clock()
            return True
        self._step = min(step, self._step)
        return False


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._milestones = Milestones()

    def advance(self, phase: str, done: int, total: int | None) -> None:
        if self._milestones.reached(phase, done, total):
            amount = f" ({_amount(done, total)})" if done else ""
            self._say(f"{phase}{_percentage(done, total)}{amount}")

    def loading(self, fraction: float) -> None:
        done = int(fraction * LOADING_STEPS)
        if self._milestones.reached(LOADING_PHASE, done, LOADING_STEPS):
            self._say(f"{LOADING_PHASE}{_percentage(done, LOADING_STEPS)}")

    def notice(self, message: str) -> None:
        self._say(message)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._phase = ""
        self._task: TaskID | None = None

    def advance(self, phase: str, done: int, total: int | None) -> None:
        self._show(phase, done, total, _amount(done, total) if done else "")

    def loading(self, fraction: float) -> None:
        self._show(LOADING_PHASE, int(fraction * LOADING_STEPS), LOADING_STEPS, "")

    def notice(self, message: str) -> None:
        self._bars.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _show(self, phase: str, done: int, total: int | None, amount: str) -> None:
        if self._task is not None and phase == self._phase:
            self._bars.update(self._task, completed=done, total=total, amount=amount)
            return
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._phase = phase
        # What is there at the start did not come at any speed, so it must not count towards one.
        self._task = self._bars.add_task(phase, completed=done, total=total, amount=amount)


class _SpeedColumn(TransferSpeedColumn):
    """Bytes per second; nothing where the phase isn't counted in bytes."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields["amount"] else Text()


def _amount(done: int, total: int | None) -> str:
    return format_bytes(done) if total is None else f"{format_bytes(done)} of {format_bytes(total)}"


def _percentage(done: int, total: int | None) -> str:
    return f": {done * 100 // total} %" if total else ""
