"""Limits of keys, as transcripts: times go in, refusals come out."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.access.limits import Limits
from quern.access.principal import Principal
from quern.config import LimitSettings
from quern.errors import LimitExceeded
from quern.records import KeyLimits, KeyRole

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def key(name: str = "anna", **limits: int) -> Principal:
    return Principal(name, name, KeyRole.USER, limits=KeyLimits(**limits))


def refused(limits: Limits, who: Principal, now: float, at: datetime = NOON) -> int | None:
    """The seconds to wait where a request is refused, None where it is taken."""
    try:
        limits.take_request(who, now, at)
    except LimitExceeded as error:
        return error.retry_after
    return None


def test_without_limits_everything_is_taken() -> None:
    limits = Limits(LimitSettings())
    assert [refused(limits, key(), now) for now in range(1000)] == [None] * 1000
    assert limits.allowances(key(), 0) == {}


def test_a_minutes_requests_may_come_at_once_and_then_evenly() -> None:
    limits, anna = Limits(LimitSettings()), key(requests_per_minute=6)
    assert [refused(limits, anna, 0.0) for _ in range(7)] == [None] * 6 + [10]
    assert refused(limits, anna, 9.5) == 1
    assert refused(limits, anna, 10.0) is None
    assert refused(limits, anna, 10.0) == 10


def test_who_waits_as_long_as_was_said_is_taken() -> None:
    limits, anna = Limits(LimitSettings()), key(requests_per_minute=7, tokens_per_minute=100)
    now = 0.0
    for _ in range(50):
        wait = refused(limits, anna, now)
        if wait is not None:
            now += wait
            assert refused(limits, anna, now) is None
        limits.charge(anna, 37, now, NOON)


@given(
    st.integers(1, 10_000),
    st.integers(1, 10**7),
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 10**6), st.integers(1, 20)), max_size=30),
)
def test_the_time_to_wait_is_never_too_short(requests: int, tokens: int, steps: list[tuple[float, int, int]]) -> None:
    limits, anna = Limits(LimitSettings()), key(requests_per_minute=requests, tokens_per_minute=tokens)
    now = 1e6
    for pause, cost, burst in steps:
        now += pause
        for _ in range(burst):
            wait = refused(limits, anna, now)
            if wait is not None:
                now += wait
                again = refused(limits, anna, now)
                if again is not None:  # the other limit's turn to say no
                    now += again
                    assert refused(limits, anna, now) is None
        limits.charge(anna, cost, now, NOON)


def test_tokens_are_charged_when_a_turn_ends_and_may_be_overdrawn_by_it() -> None:
    limits, anna = Limits(LimitSettings()), key(tokens_per_minute=60)
    assert refused(limits, anna, 0) is None
    limits.charge(anna, 180, 0, NOON)
    assert refused(limits, anna, 0) == 121
    assert refused(limits, anna, 120) == 1
    assert refused(limits, anna, 121) is None


def test_an_idle_hour_saves_up_no_more_than_a_minutes_worth() -> None:
    limits, anna = Limits(LimitSettings()), key(requests_per_minute=2)
    assert refused(limits, anna, 0) is None
    assert [refused(limits, anna, 3600) for _ in range(3)] == [None, None, 30]


def test_a_days_tokens_are_there_again_at_midnight_utc() -> None:
    limits, anna = Limits(LimitSettings()), key(tokens_per_day=100)
    limits.charge(anna, 99, 0, NOON)
    assert refused(limits, anna, 1) is None
    limits.charge(anna, 1, 1, NOON)
    assert refused(limits, anna, 2) == 12 * 3600
    assert refused(limits, anna, 3, NOON + timedelta(hours=11, minutes=59, seconds=59)) == 1
    assert refused(limits, anna, 4, NOON + timedelta(hours=12)) is None


def test_a_clock_that_is_set_and_set_back_gives_no_day_twice() -> None:
    limits, anna = Limits(LimitSettings()), key(tokens_per_day=100)
    limits.charge(anna, 100, 0, NOON)
    for wrong in (timedelta(days=400), timedelta(days=-20000)):
        assert refused(limits, anna, 1, NOON + wrong) is None
        limits.charge(anna, 1, 1, NOON + wrong)
        assert refused(limits, anna, 2) == 12 * 3600


def test_minutes_go_by_a_clock_that_nobody_sets() -> None:
    limits, anna = Limits(LimitSettings()), key(requests_per_minute=1)
    assert refused(limits, anna, 0.0) is None
    for wrong in (timedelta(days=400), timedelta(days=-400)):
        assert refused(limits, anna, 0.0, NOON + wrong) == 60
    assert refused(limits, anna, 60.0, NOON - timedelta(days=1)) is None


def test_what_was_used_before_a_restart_counts() -> None:
    limits, anna = Limits(LimitSettings()), key(tokens_per_day=100)
    limits.start_day(date(2026, 11, 28), {"anna": 100})
    assert refused(limits, anna, 0) == 12 * 3600
    assert refused(limits, key("ben", tokens_per_day=100), 0) is None


def test_a_keys_own_limit_wins_over_the_settings_and_zero_is_none() -> None:
    limits = Limits(LimitSettings(requests_per_minute=1))
    assert [refused(limits, key(), 0) for _ in range(2)] == [None, 60]
    assert [refused(limits, key("ben", requests_per_minute=2), 0) for _ in range(3)] == [None, None, 30]
    assert [refused(limits, key("cleo", requests_per_minute=0), 0) for _ in range(100)] == [None] * 100


def test_a_changed_limit_holds_at_once() -> None:
    limits = Limits(LimitSettings())
    for _ in range(10):
        assert refused(limits, key(requests_per_minute=10), 0) is None
    assert refused(limits, key(requests_per_minute=10), 0) == 6
    assert refused(limits, key(requests_per_minute=60), 1) is None


def test_allowances_say_what_is_left_and_when_all_is_there_again() -> None:
    limits, anna = Limits(LimitSettings()), key(requests_per_minute=60, tokens_per_minute=600)
    for _ in range(15):
        limits.take_request(anna, 0, NOON)
    limits.charge(anna, 700, 0, NOON)
    left = limits.allowances(anna, 0)
    assert (left["requests"].limit, left["requests"].remaining, left["requests"].reset_seconds) == (60, 45, 15)
    assert (left["tokens"].remaining, left["tokens"].reset_seconds) == (0, 70)


def test_owners_that_are_gone_are_forgotten_in_time() -> None:
    limits = Limits(LimitSettings(requests_per_minute=5))
    for number in range(3000):
        limits.take_request(key(f"k{number}"), 0, NOON)
    for number in range(3):
        limits.take_request(key(f"k{number}"), 0, NOON + timedelta(days=1))
    assert len(limits._meters) < 1100


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50)), max_size=60),
    st.integers(1, 20),
)
def test_no_minute_ever_sees_more_than_two_minutes_worth(steps: list[tuple[float, int]], most: int) -> None:
    limits, anna = Limits(LimitSettings()), key(requests_per_minute=most)
    now, taken = 0.0, list[float]()
    for pause, burst in steps:
        now += pause
        taken += [now for _ in range(burst) if refused(limits, anna, now) is None]
    for start in taken:
        assert sum(start <= at < start + 60 for at in taken) <= 2 * most


@pytest.mark.parametrize("name", ["turns_at_once", "turns_waiting"])
def test_limits_of_turns_are_told_as_they_are_set(name: str) -> None:
    assert getattr(Limits(LimitSettings.model_validate({name: 3})).of(key()), name) == 3
    assert getattr(Limits(LimitSettings()).of(key("anna", **{name: 4})), name) == 4
