"""When to come back: told from the rate at which places come free, tried against clients that do as they are told."""

from __future__ import annotations

import heapq
import random
from statistics import median

import pytest

from quern.turns.retry_after import (
    LONGEST_RETRY_AFTER,
    UNMEASURED_RETRY_AFTER,
    Progress,
    RetryAfter,
    first_estimate,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_without_a_measurement_the_wait_is_the_stated_default() -> None:
    assert RetryAfter(Clock()).seconds([]) == UNMEASURED_RETRY_AFTER
    assert RetryAfter(Clock()).seconds([Progress(1, 0, 10)]) == UNMEASURED_RETRY_AFTER


def test_the_first_estimate_is_what_the_turn_closest_to_its_end_still_needs_at_its_measured_speed() -> None:
    slow = Progress(generated_tokens=10, decode_seconds=10, max_tokens=110)
    fast = Progress(generated_tokens=50, decode_seconds=10, max_tokens=110)
    assert first_estimate([slow], None) == 100
    assert first_estimate([slow, fast], None) == 12


def test_a_typical_length_shortens_the_wait_and_a_turn_past_it_counts_to_its_own_limit() -> None:
    assert first_estimate([Progress(10, 10, 1000)], typical_tokens=40) == 30
    assert first_estimate([Progress(50, 50, 60)], typical_tokens=40) == 10


def test_typical_length_follows_completed_turns() -> None:
    retry = RetryAfter(Clock())
    retry.ended(busy=False, completion_tokens=100)
    retry.ended(busy=False, completion_tokens=200)
    assert retry.seconds([Progress(10, 10, 1000)]) == pytest.approx(110)


def test_the_wait_is_at_least_a_second_and_at_most_the_stated_longest() -> None:
    assert RetryAfter(Clock()).seconds([Progress(99, 1, 100)]) == 1
    retry = RetryAfter(Clock())
    assert retry.seconds([Progress(2, 100, 4096)]) == LONGEST_RETRY_AFTER
    assert retry.seconds([Progress(2, 100, 4096)]) == LONGEST_RETRY_AFTER


def test_where_turns_end_every_two_seconds_each_refused_caller_is_told_a_place_of_its_own() -> None:
    clock = Clock()
    retry = RetryAfter(clock)
    for _ in range(10):
        clock.now += 2
        retry.ended(busy=True)
    assert [retry.seconds([]) for _ in range(4)] == [2, 4, 6, 8]
    clock.now += 3
    assert retry.seconds([]) in {7, 8}, "what was promised meanwhile still stands"


def test_ends_in_bursts_count_as_what_they_are_on_the_whole() -> None:
    clock = Clock()
    retry = RetryAfter(clock)
    for _ in range(4):
        clock.now += 8
        for _ in range(8):
            retry.ended(busy=True)
    told = [retry.seconds([]) for _ in range(8)]
    assert 4 <= told[-1] <= 9


def test_an_idle_hour_is_no_rate_and_the_one_before_it_is_remembered() -> None:
    clock = Clock()
    retry = RetryAfter(clock)
    for _ in range(10):
        clock.now += 1
        retry.ended(busy=True)
    retry.ended(busy=False)
    clock.now += 3600
    assert [retry.seconds([]) for _ in range(3)] == [1, 2, 3]


def test_nobody_is_told_more_than_the_default_by_a_server_that_knows_nothing_yet() -> None:
    retry = RetryAfter(Clock())
    assert {retry.seconds([]) for _ in range(100)} == {UNMEASURED_RETRY_AFTER}


@pytest.mark.parametrize("seed", range(5))
def test_clients_that_do_as_they_are_told_find_a_place_within_twice_the_time(seed: int) -> None:
    """Ten times overload: 4 sequences, 16 places, turns of 1 to 9 s, 40 s of callers every 0.125 s."""
    chance, clock = random.Random(seed), Clock()
    retry = RetryAfter(clock)
    running: list[float] = []
    waiting = 0
    waits: list[tuple[float, float]] = []
    start = clock.now
    calls = [(start + index / 8, index, start + index / 8, 0.0) for index in range(320)]
    heapq.heapify(calls)
    while calls or running:
        if running and (not calls or running[0] <= calls[0][0]):
            clock.now = heapq.heappop(running)
            retry.ended(busy=waiting > 0)
            if waiting:
                waiting -= 1
                heapq.heappush(running, clock.now + chance.uniform(1, 9))
            continue
        clock.now, index, first, told = heapq.heappop(calls)
        if len(running) < 4:
            heapq.heappush(running, clock.now + chance.uniform(1, 9))
        elif waiting < 12:
            waiting += 1
        else:
            seconds = retry.seconds([])
            heapq.heappush(calls, (clock.now + seconds, index, first, told or seconds))
            continue
        if told:
            waits.append((told, clock.now - first))
    assert len(waits) > 100
    ratios = [took / said for said, took in waits]
    assert 0.5 <= median(ratios) <= 2
    assert sum(0.5 <= ratio <= 2 for ratio in ratios) >= 0.7 * len(ratios)
