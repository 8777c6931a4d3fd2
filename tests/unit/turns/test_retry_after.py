"""When to come back: told from the rate at which places come free, tried against clients that do as they are told."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from itertools import count
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


def retry_after(clock: Clock, *running: Progress) -> RetryAfter:
    return RetryAfter(lambda: running, clock)


def end_every(seconds: float, retry: RetryAfter, clock: Clock, ends: int = 10) -> None:
    for _ in range(ends):
        clock.now += seconds
        retry.ended(others=4, parallel=4)


def test_without_a_measurement_the_wait_is_the_stated_default() -> None:
    assert retry_after(Clock()).refuse("ann") == UNMEASURED_RETRY_AFTER
    assert retry_after(Clock(), Progress(1, 0, 10)).refuse("ann") == UNMEASURED_RETRY_AFTER


def test_the_first_estimate_is_what_the_turn_closest_to_its_end_still_needs_at_its_measured_speed() -> None:
    slow = Progress(generated_tokens=10, decode_seconds=10, max_tokens=110)
    fast = Progress(generated_tokens=50, decode_seconds=10, max_tokens=110)
    assert first_estimate([slow], None) == 100
    assert first_estimate([slow, fast], None) == 12


def test_a_typical_length_shortens_the_wait_and_a_turn_past_it_counts_to_its_own_limit() -> None:
    assert first_estimate([Progress(10, 10, 1000)], typical_tokens=40) == 30
    assert first_estimate([Progress(50, 50, 60)], typical_tokens=40) == 10


def test_typical_length_follows_completed_turns() -> None:
    retry = retry_after(Clock(), Progress(10, 10, 1000))
    retry.ended(others=0, parallel=4, completion_tokens=100)
    retry.ended(others=0, parallel=4, completion_tokens=200)
    assert retry.refuse("ann") == pytest.approx(110)


def test_the_wait_is_at_least_a_second_and_at_most_the_stated_longest() -> None:
    assert retry_after(Clock(), Progress(99, 1, 100)).refuse("ann") == 1
    retry = retry_after(Clock(), Progress(2, 100, 4096))
    assert [retry.refuse(None), retry.refuse("ann"), retry.refuse("ben")] == [LONGEST_RETRY_AFTER] * 3


def test_where_turns_end_every_two_seconds_each_refused_caller_is_told_a_place_of_its_own() -> None:
    clock = Clock()
    retry = retry_after(clock)
    end_every(2, retry, clock)
    assert [retry.refuse(name) for name in ("ann", "ben", "cleo", "dan")] == [2, 4, 6, 8]
    clock.now += 3
    assert retry.refuse("eve") in {7, 8}, "what was promised meanwhile still stands"


def test_ends_in_bursts_count_as_what_they_are_on_the_whole() -> None:
    clock = Clock()
    retry = retry_after(clock)
    for _ in range(4):
        clock.now += 8
        for _ in range(8):
            retry.ended(others=8, parallel=8)
    told = [retry.refuse(number) for number in range(8)]
    assert 4 <= told[-1] <= 9


def test_an_idle_hour_is_no_rate_and_the_one_before_it_is_remembered() -> None:
    clock = Clock()
    retry = retry_after(clock)
    end_every(1, retry, clock)
    retry.ended(others=0, parallel=4)
    clock.now += 3600
    assert [retry.refuse(number) for number in range(3)] == [1, 2, 3]


def test_nobody_is_told_more_than_the_default_by_a_server_that_knows_nothing_yet() -> None:
    retry = retry_after(Clock())
    assert {retry.refuse(number) for number in range(100)} == {UNMEASURED_RETRY_AFTER}


def test_a_place_is_kept_from_those_who_come_first_and_given_to_whoever_was_told() -> None:
    clock = Clock()
    retry = retry_after(clock)
    end_every(2, retry, clock)
    assert retry.refuse("ann") == 2
    assert retry.kept("ben", free=1) == 1
    assert retry.kept(None, free=1) == 1
    assert retry.kept("ann", free=1) == 0
    clock.now += 2
    assert retry.kept("ben", free=1) == 1
    assert retry.kept("ann", free=1) == 0
    retry.admitted("ann")
    assert retry.kept("ben", free=1) == 0


def test_who_comes_before_its_time_waits_for_those_before_it_and_keeps_its_turn() -> None:
    clock = Clock()
    retry = retry_after(clock)
    end_every(2, retry, clock)
    assert [retry.refuse("ann"), retry.refuse("ben")] == [2, 4]
    clock.now += 1
    assert retry.kept("ben", free=1) == 1
    assert retry.refuse("ben") == 3, "the time that it was told first"
    assert retry.kept("ann", free=1) == 0


def test_a_place_far_ahead_is_nobodys_until_then() -> None:
    clock = Clock()
    retry = retry_after(clock)
    end_every(2, retry, clock)
    for number in range(20):
        retry.refuse(number)
    assert retry.kept("new", free=3) == 3
    clock.now += 60
    assert retry.kept("new", free=3) == 0, "nobody came back, so nothing is kept"


def test_where_the_server_has_become_idle_nothing_is_kept_and_nobody_waits_for_the_gone() -> None:
    clock = Clock()
    retry = retry_after(clock)
    end_every(2, retry, clock)
    for number in range(20):
        retry.refuse(number)
    retry.ended(others=0, parallel=4)
    assert retry.kept("new", free=1) == 0
    assert retry.refuse("new") == 2


class Server:
    """4 sequences, 12 places to wait, turns of 1 to 9 s, and clients that do as they are told."""

    def __init__(self, seed: int) -> None:
        self.chance, self.clock = random.Random(seed), Clock()
        self.retry = retry_after(self.clock)
        self.running: list[tuple[float, int]] = []
        self.waiting: list[int] = []
        self.waits: list[tuple[float, float]] = []
        self.refused: dict[int, tuple[float, int]] = {}
        self.busy_seconds = 0.0

    def warm(self) -> None:
        """So many calls that some wait, and none is refused: the server knows its rate then."""
        self.live([(self.clock.now, -1 - index) for index in range(14)], 14)
        assert not self.waits

    def live(self, calls: list[tuple[float, int]], seconds: float, again: Iterator[int] | None = None) -> None:
        """`again`: whoever was answered asks for something else at once."""
        end = self.clock.now + seconds
        heapq.heapify(calls)
        while calls or self.running:
            ends = self.running[0][0] if self.running else end
            if min(ends, calls[0][0] if calls else end) >= end:
                break
            if not calls or ends <= calls[0][0]:
                self._end(calls, again)
            else:
                self._call(calls)

    def _end(self, calls: list[tuple[float, int]], again: Iterator[int] | None) -> None:
        self.clock.now, _ = heapq.heappop(self.running)
        self.retry.ended(others=len(self.running) + len(self.waiting), parallel=4)
        if self.waiting:
            self._run(self.waiting.pop(0))
        if again is not None:
            heapq.heappush(calls, (self.clock.now, next(again)))

    def _call(self, calls: list[tuple[float, int]]) -> None:
        self.clock.now, name = heapq.heappop(calls)
        free = 16 - len(self.running) - len(self.waiting)
        if free <= self.retry.kept(name, free):
            seconds = self.retry.refuse(name)
            self.refused.setdefault(name, (self.clock.now, seconds))
            heapq.heappush(calls, (self.clock.now + seconds, name))
            return
        self.retry.admitted(name)
        if name in self.refused:
            when, told = self.refused.pop(name)
            self.waits.append((told, self.clock.now - when))
        if len(self.running) < 4:
            self._run(name)
        else:
            self.waiting.append(name)

    def _run(self, name: int) -> None:
        seconds = self.chance.uniform(1, 9)
        self.busy_seconds += seconds
        heapq.heappush(self.running, (self.clock.now + seconds, name))

    def check(self) -> None:
        assert len(self.waits) > 100
        ratios = [took / told for told, took in self.waits]
        assert 0.8 <= median(ratios) <= 1.25
        assert sum(0.5 <= ratio <= 2 for ratio in ratios) >= 0.9 * len(ratios)


@pytest.mark.parametrize("seed", range(5))
def test_clients_that_come_all_the_time_find_a_place_within_twice_the_time(seed: int) -> None:
    server = Server(seed)
    server.warm()
    server.live([(server.clock.now + index / 8, index) for index in range(320)], 400)
    server.check()


@pytest.mark.parametrize("seed", range(5))
def test_clients_that_ask_again_at_once_find_a_place_within_twice_the_time_and_leave_no_place_idle(seed: int) -> None:
    server = Server(seed)
    server.warm()
    before = server.busy_seconds
    server.live([(server.clock.now, index) for index in range(160)], 600, count(160))
    server.check()
    assert server.busy_seconds - before > 0.97 * 4 * 600
