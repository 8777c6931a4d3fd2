"""Showing progress, on a terminal and elsewhere."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from quern.cli.progress import Milestones, progress_display


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(
    updates=st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 1000), st.floats(0, 5), st.booleans()), max_size=200
    )
)
def test_a_phase_gets_few_lines_and_not_more_than_one_a_second(
    updates: list[tuple[str, int, float, bool]],
) -> None:
    clock = Clock()
    milestones = Milestones(clock)
    last_phase, said_at, lines = "", clock.now, 0
    for phase, done, seconds, known in updates:
        clock.now += seconds
        if phase != last_phase:
            last_phase, said_at, lines = phase, clock.now, 0
        if milestones.reached(phase, done, 1000 if known else None):
            lines += 1
            assert clock.now - said_at >= 1 or (known and done == 1000)
            said_at = clock.now


@given(steps=st.lists(st.integers(0, 999), unique=True))
def test_a_growing_phase_gets_at_most_ten_lines_and_its_end_is_always_said(steps: list[int]) -> None:
    clock = Clock()
    milestones = Milestones(clock)
    said: list[int] = []
    for done in [*sorted(steps), 1000, 1000]:
        clock.now += 2
        if milestones.reached("a", done, 1000):
            said.append(done)
    assert len(said) <= 10
    assert said.count(1000) == 1


def test_away_from_a_terminal_there_are_plain_lines() -> None:
    out = io.StringIO()
    with progress_display(Console(file=out, width=20)) as progress:
        progress.notice("A notice that is longer than the screen is wide, with [brackets].")
        progress.advance("Downloading a", 0, 2_000_000)
        progress.advance("Downloading a", 2_000_000, 2_000_000)
        progress.loading(1.0)
    assert out.getvalue().splitlines() == [
        "A notice that is longer than the screen is wide, with [brackets].",
        "Downloading a: 100 % (2.0 MB of 2.0 MB)",
        "Loading the model: 100 %",
    ]


def terminal() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None, _environ={"TERM": "xterm"})


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_gets_a_bar_and_the_notices_stay() -> None:
    console = terminal()
    with progress_display(console) as progress:
        progress.advance("Asking a hub", 0, None)
        progress.notice("A notice.")
        progress.advance("Downloading a", 1_000_000, 2_000_000)
        progress.advance("Downloading a", 1_500_000, 2_000_000)
    assert "A notice.\n" in shown(console)
    last_frame = shown(console).rsplit("\r", maxsplit=2)[-2]
    assert "Downloading a" in last_frame
    assert "75% 1.5 MB of 2.0 MB" in last_frame
    assert "Asking" not in last_frame


def test_loading_is_a_bar_without_bytes() -> None:
    console = terminal()
    with progress_display(console) as progress:
        progress.advance("Checking a", 2_000_000, 2_000_000)
        progress.loading(0.25)
        progress.loading(0.5)
    last_frame = shown(console).rsplit("\r", maxsplit=2)[-2]
    assert "Loading the model" in last_frame
    assert "50%" in last_frame
    assert "bytes" not in last_frame
    assert "Checking" not in last_frame
