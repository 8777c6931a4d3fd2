"""Who may begin a turn: a bounded number at once, of everybody's and of each owner's."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, ExitStack

import pytest
from tests.unit.turns.live_turns import MODEL, live_turn

from quern.access.limits import Limits
from quern.access.principal import Principal
from quern.access.usage import UsageMeter
from quern.config import LimitSettings
from quern.engine.base import Priority
from quern.errors import LimitExceeded, QueueFull
from quern.records import KeyLimits, KeyRole
from quern.store.database import Database
from quern.store.storage import StorageStore
from quern.store.usage import UsageStore
from quern.turns.queue_limit import Places
from quern.turns.request import Caller
from quern.turns.retry_after import Progress
from quern.turns.turn import Turn


class Asked(Places):
    """Places that are asked for in a line."""

    def __init__(self) -> None:
        self.now = 1000.0
        unused = Database("sqlite+aiosqlite:///unused")
        meter = UsageMeter(Limits(LimitSettings()), UsageStore(unused), StorageStore(unused))
        super().__init__(meter, lambda _owner, _model: [Progress(2, 1.0, 16)], lambda: self.now)

    def of(
        self,
        priority: Priority,
        owner: str,
        active: Collection[Turn],
        limit: int,
        *,
        digest: bytes = b"",
        limits: KeyLimits | None = None,
    ) -> AbstractContextManager[None]:
        principal = Principal(owner, owner, KeyRole.USER, limits=limits or KeyLimits())
        caller = Caller(principal, "request", background=None, body_digest=digest)
        return self.place(caller, MODEL, priority, active, max_queued=limit - 1)


def places() -> Asked:
    return Asked()


def test_turns_that_are_being_admitted_count_with_those_that_are_active() -> None:
    place, active = places(), [live_turn()]
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(place.of(Priority.NORMAL, "ann", active, 3))
        with pytest.raises(QueueFull) as refused, place.of(Priority.NORMAL, "ann", active, 3):
            pass
        assert refused.value.retry_after == 7
        assert str(refused.value) == (
            "All 3 places are taken: every running and waiting turn counts. Try again in 7 s."
        )
    with place.of(Priority.NORMAL, "ann", active, 3):
        pass


def test_a_place_is_free_again_where_the_turn_was_refused_after_all() -> None:
    place = places()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), place.of(Priority.NORMAL, "ann", [], 1):
            raise ZeroDivisionError


def test_each_priority_has_places_of_its_own_also_for_those_that_are_being_admitted() -> None:
    place, active = places(), [live_turn(), live_turn()]
    with place.of(Priority.NORMAL, "ann", active, 3):
        with place.of(Priority.INTERACTIVE, "ann", active, 1), pytest.raises(QueueFull):
            place.of(Priority.INTERACTIVE, "ann", active, 1).__enter__()
        with pytest.raises(QueueFull):
            place.of(Priority.NORMAL, "ann", active, 3).__enter__()


async def test_what_nobody_reads_any_more_takes_no_place_from_those_who_wait() -> None:
    place, active = places(), [live_turn() for _ in range(3)]
    for turn in active:
        with turn.attach():
            pass
    with place.of(Priority.NORMAL, "ann", active, 3), pytest.raises(QueueFull):
        place.of(Priority.BACKGROUND, "ann", active, 3).__enter__()
    with active[0].attach(), active[1].attach(), active[2].attach(), pytest.raises(QueueFull):
        place.of(Priority.NORMAL, "ann", active, 3).__enter__()


async def test_left_turns_without_end_are_not_admitted_without_end() -> None:
    place, active = places(), list[Turn]()
    for _ in range(3 + 3):
        with place.of(Priority.NORMAL, "ann", active, 3):
            active.append(live_turn())
        with active[-1].attach():
            pass
    with pytest.raises(QueueFull):
        place.of(Priority.NORMAL, "ann", active, 3).__enter__()


def test_what_became_active_meanwhile_is_counted() -> None:
    place, active = places(), dict[str, Turn]()
    with place.of(Priority.NORMAL, "ann", active.values(), 2):
        active["one"] = live_turn()
        with pytest.raises(QueueFull), place.of(Priority.NORMAL, "ann", active.values(), 2):
            pass


def test_who_has_few_places_finds_one_where_somebody_else_has_taken_all() -> None:
    place, active = places(), [live_turn() for _ in range(8)]
    with pytest.raises(QueueFull):
        place.of(Priority.NORMAL, "ann", active, 8).__enter__()
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(place.of(Priority.NORMAL, "ben", active, 8))
        with pytest.raises(QueueFull):
            held.enter_context(place.of(Priority.NORMAL, "cleo", active, 8))
        with pytest.raises(QueueFull):
            held.enter_context(place.of(Priority.NORMAL, "ann", active, 8))


def test_whoever_is_alone_has_all_places_and_no_more() -> None:
    place = places()
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(place.of(Priority.NORMAL, "ann", [], 8))
        with pytest.raises(QueueFull):
            held.enter_context(place.of(Priority.NORMAL, "ann", [], 8))


def test_the_one_that_is_too_many_to_wait_is_refused_with_the_time_to_come_back() -> None:
    place, active = places(), [live_turn() for _ in range(3)]
    for turn in active:
        turn.owner = "anna"
    limits = KeyLimits(turns_at_once=1, turns_waiting=2)
    with pytest.raises(LimitExceeded, match="'anna' may have 3 turns") as refused:
        place.of(Priority.NORMAL, "anna", active, 99, limits=limits).__enter__()
    assert refused.value.retry_after == 7
    with place.of(Priority.NORMAL, "anna", active[:2], 99, limits=limits):
        with pytest.raises(LimitExceeded):
            place.of(Priority.NORMAL, "anna", active[:2], 99, limits=limits).__enter__()
        with place.of(Priority.NORMAL, "ben", active, 99, limits=limits):
            pass


def test_whoever_was_told_a_time_finds_a_place_then_and_not_who_asks_for_the_first_time() -> None:
    place, active = places(), [live_turn(), live_turn()]
    with pytest.raises(QueueFull) as refused:
        place.of(Priority.NORMAL, "ann", active, 2, digest=b"first").__enter__()
    place.now += refused.value.retry_after - 0.5
    with pytest.raises(QueueFull):
        place.of(Priority.NORMAL, "ann", active[:1], 2, digest=b"another").__enter__()
    with place.of(Priority.BACKGROUND, "ann", active[:1], 2, digest=b"another"):
        pass
    place.now += 0.5
    with place.of(Priority.NORMAL, "ann", active[:1], 2, digest=b"first"):
        pass


def test_a_place_is_not_kept_for_long_for_who_does_not_come_back() -> None:
    place, active = places(), [live_turn(), live_turn()]
    with pytest.raises(QueueFull) as refused:
        place.of(Priority.NORMAL, "ann", active, 2, digest=b"first").__enter__()
    place.now += refused.value.retry_after + 5
    with place.of(Priority.NORMAL, "ben", active[:1], 2, digest=b"another"):
        pass
