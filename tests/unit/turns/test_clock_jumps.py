"""A machine's clock that is set while the server runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from quern.turns.clock_jumps import CarefulClock

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
HOUR = 3600.0
DAY = 24 * HOUR


class Machine:
    """A machine's two clocks."""

    def __init__(self) -> None:
        self.wall = NOON.timestamp()
        self.steady = 5000.0
        self.clock = CarefulClock(lambda: self.wall, lambda: self.steady)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def test_time_that_passes_is_the_time() -> None:
    machine = Machine()
    for _ in range(1000):
        machine.passes(HOUR)
        assert machine.clock.now() == datetime.fromtimestamp(machine.wall, UTC)


def test_a_machine_that_slept_is_believed() -> None:
    machine = Machine()
    machine.passes(90 * DAY)
    assert machine.clock.now() == NOON + timedelta(days=90)


def test_a_clock_that_is_set_forward_is_believed_after_a_day() -> None:
    machine = Machine()
    machine.wall += 400 * DAY
    assert machine.clock.now() == NOON
    machine.passes(23 * HOUR)
    assert machine.clock.now() == NOON + timedelta(hours=23)
    machine.passes(HOUR)
    machine.clock.now()
    assert machine.clock.now() == NOON + timedelta(days=401)


def test_a_clock_that_is_set_forward_and_back_was_never_believed() -> None:
    machine = Machine()
    machine.wall += 400 * DAY
    machine.passes(23 * HOUR)
    assert machine.clock.now() <= NOON + timedelta(days=1)
    machine.wall -= 400 * DAY
    assert machine.clock.now() == NOON + timedelta(hours=23)
    machine.wall += 400 * DAY
    machine.passes(23 * HOUR)
    assert machine.clock.now() == NOON + timedelta(hours=46), "the day begins anew with each jump"


def test_a_clock_that_is_set_back_is_believed_at_once() -> None:
    machine = Machine()
    machine.wall -= 400 * DAY
    assert machine.clock.now() == NOON - timedelta(days=400)


def test_a_clock_that_drifts_is_followed() -> None:
    machine = Machine()
    for _ in range(1000):
        machine.passes(60)
        machine.wall += 5
        assert machine.clock.now() == datetime.fromtimestamp(machine.wall, UTC)


@given(st.lists(st.tuples(st.floats(0, 3600), st.floats(-1e8, 1e8)), max_size=30))
def test_within_a_day_no_clock_makes_anything_older_than_it_is(steps: list[tuple[float, float]]) -> None:
    """Jumps that are too small to be told from drift may come together."""
    machine = Machine()
    passed = allowed = 0.0
    for seconds, jump in steps[:20]:
        machine.passes(seconds)
        machine.wall += jump
        passed, allowed = passed + seconds, allowed + 600
        assert machine.clock.now() <= NOON + timedelta(seconds=passed + allowed)
