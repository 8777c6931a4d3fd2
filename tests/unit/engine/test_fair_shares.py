"""Who goes next and who gives way, without an engine: tables and properties."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.engine.base import GenerateRequest, Priority
from quern.engine.cpu.step_budget import split
from quern.engine.fair_shares import LOOKED_AT, MOST_IDLE, QUANTUM, Claim, FairShares
from quern.sampling import SamplingParams


class Line:
    """Claims by numbers that grow."""

    def __init__(self, places: int = 4) -> None:
        self.shares = FairShares(places)
        self._count = 0

    def arrive(
        self, owner: str = "", *, size: int = 100, weight: float = 1.0, priority: Priority = Priority.NORMAL
    ) -> Claim:
        self._count += 1
        request = GenerateRequest((0,), SamplingParams(), owner=owner, weight=weight, priority=priority)
        claim = Claim(self._count, size, request)
        self.shares.arrive(claim)
        return claim

    def run(self, owner: str = "", *, weight: float = 1.0, priority: Priority = Priority.NORMAL) -> Claim:
        claim = self.arrive(owner, weight=weight, priority=priority)
        self.shares.start(claim)
        return claim

    def owners(self) -> str:
        return "".join(claim.owner for claim in self.shares.line())


def test_one_owners_requests_stand_in_order_of_arrival() -> None:
    line = Line()
    claims = [line.arrive("a") for _ in range(5)]
    assert line.shares.line() == tuple(claims)


def test_owners_alternate_however_many_requests_they_have() -> None:
    line = Line()
    for owner in "aaaabb":
        line.arrive(owner)
    assert line.owners() == "ababaa"


def test_what_an_owner_holds_puts_it_back() -> None:
    line = Line()
    for owner in "aab":
        line.run(owner)
    for owner in "aabbc":
        line.arrive(owner)
    assert line.owners() == "cbaba"


def test_a_weight_is_a_number_above_nothing() -> None:
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="greater than 0"):
            Line().arrive("a", weight=weight)


def test_priorities_stand_before_each_other_and_what_one_cost_is_nothing_to_another() -> None:
    line = Line()
    line.shares.charge(line.run("a", priority=Priority.BACKGROUND), 10_000)
    normal = [line.arrive("a"), line.arrive("b")]
    background = [line.arrive(owner, priority=Priority.BACKGROUND) for owner in "ab"]
    urgent = line.arrive("b", priority=Priority.INTERACTIVE)
    assert line.shares.line() == (urgent, *normal, *reversed(background))


def test_a_priority_that_changes_moves_a_claim_and_what_it_holds() -> None:
    line = Line()
    runs, waits = line.run("a"), line.arrive("b")
    for claim in (runs, waits):
        assert isinstance(claim.request, GenerateRequest)
        claim.request.override.priority = Priority.BACKGROUND
    later = line.arrive("c")
    line.shares.refresh()
    assert line.shares.line() == (later, waits)
    assert line.shares.giving_way(later) == [runs]
    assert line.shares.giving_way(waits) == []
    line.shares.leave(runs)
    assert (line.shares.running, line.shares.waiting) == (0, 2)


def test_the_newest_of_whoever_holds_most_gives_way_while_that_makes_them_more_equal() -> None:
    line = Line(8)
    hers = [line.run("a") for _ in range(5)]
    his = [line.run("b") for _ in range(2)]
    assert line.shares.giving_way(line.arrive("c")) == [hers[4], hers[3], hers[2], his[1], hers[1]]
    assert line.shares.giving_way(line.arrive("b")) == [hers[4], hers[3]]
    assert line.shares.giving_way(line.arrive("a")) == []


def test_who_went_before_gives_way_again_only_after_costing_twice_a_quantum_more() -> None:
    line = Line(1)
    first, second = line.run("a"), line.arrive("b")
    line.shares.charge(first, QUANTUM)
    assert line.shares.giving_way(second) == [first]
    line.shares.stop(first)
    line.shares.start(second)
    line.shares.charge(second, 2 * QUANTUM - 1)
    assert line.shares.giving_way(first) == []
    line.shares.charge(second, 1)
    assert line.shares.giving_way(first) == [second]


def test_somebody_always_can_give_way_while_anybody_runs() -> None:
    line = Line()
    with pytest.raises(LookupError):
        line.shares.last()
    runs = line.run("a")
    assert line.shares.last() is runs


def test_a_large_one_is_overtaken_by_its_own_size_at_most_and_one_that_gave_way_by_nobody() -> None:
    line = Line(16)
    line.arrive("a", size=1000)
    small = [line.arrive("a", size=300) for _ in range(5)]
    fits = {*small}
    started: list[Claim] = []
    while (claim := line.shares.next_to_start(fits.__contains__)) is not None:
        line.shares.start(claim)
        started.append(claim)
    assert started == small[:3]
    line.shares.stop(small[2])
    assert line.shares.next_to_start({small[4]}.__contains__) is None


def test_only_the_first_in_line_are_looked_at() -> None:
    line = Line(100)
    for _ in range(LOOKED_AT):
        line.arrive("a", size=10**6)
    last = line.arrive("a", size=1)
    assert line.shares.next_to_start(lambda claim: claim is last) is None


def test_owners_that_have_gone_are_forgotten() -> None:
    line = Line()
    stays = line.arrive("stays")
    for number in range(3 * MOST_IDLE):
        claim = line.run(f"owner {number}")
        line.shares.charge(claim, 1000 + number)
        line.shares.leave(claim)
    assert line.shares.owners <= MOST_IDLE + 1
    line.shares.leave(stays)
    assert line.shares.owners == 0


def test_one_that_comes_back_pays_for_what_it_had_while_somebody_waits_who_had_less() -> None:
    line = Line()
    waits = line.arrive("w")
    came = line.run("a")
    line.shares.charge(came, 5000)
    line.shares.leave(came)
    for owner in "ab":
        line.arrive(owner)
    assert line.owners() == "wba"
    line.shares.leave(waits)
    for claim in line.shares.line():
        line.shares.leave(claim)
    for owner in "ab":
        line.arrive(owner)
    assert line.owners() == "ab", "nobody waited any more, so nobody was owed anything"


def shared(tokens: int, pending: dict[str, int], weights: dict[str, float], charged: dict[str, int]) -> dict[str, int]:
    line = Line(16)
    claims = {owner: line.run(owner, weight=weights.get(owner, 1.0)) for owner in pending}
    for owner, cost in charged.items():
        line.shares.charge(claims[owner], cost)
    return split(tokens, pending, claims, line.shares)


@pytest.mark.parametrize(
    ("tokens", "pending", "weights", "charged", "counts"),
    [
        (64, {"a": 1000}, {}, {}, {"a": 64}),
        (64, {"a": 10}, {}, {}, {"a": 10}),
        (64, {"a": 1000, "b": 1000}, {}, {}, {"a": 32, "b": 32}),
        (64, {"a": 1000, "b": 10}, {}, {}, {"a": 54, "b": 10}),
        (64, {"a": 1000, "b": 1000}, {}, {"a": 500}, {"a": 0, "b": 64}),
        (64, {"a": 1000, "b": 1000}, {}, {"a": 32}, {"a": 16, "b": 48}),
        (64, {"a": 1000, "b": 1000, "c": 1000}, {}, {"c": 10_000}, {"a": 32, "b": 32, "c": 0}),
        (64, {"a": 5, "b": 6, "c": 7}, {}, {"c": 10_000}, {"a": 5, "b": 6, "c": 7}),
    ],
)
def test_a_steps_prompt_tokens_go_to_whoever_has_had_least(
    tokens: int, pending: dict[str, int], weights: dict[str, float], charged: dict[str, int], counts: dict[str, int]
) -> None:
    assert shared(tokens, pending, weights, charged) == counts


@given(
    tokens=st.integers(1, 300),
    pending=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 300), min_size=1),
    weights=st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.5, 1.0, 4.0])),
)
def test_every_token_of_a_step_that_somebody_needs_is_used(
    tokens: int, pending: dict[str, int], weights: dict[str, float]
) -> None:
    counts = shared(tokens, pending, weights, {})
    assert sum(counts.values()) == min(tokens, sum(pending.values()))
    assert all(count <= pending[owner] for owner, count in counts.items())


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 400)), min_size=1, max_size=120),
    st.integers(1, 6),
)
def test_everybody_is_let_in_after_a_bounded_amount_of_others_work(script: list[tuple[str, int]], places: int) -> None:
    """A first claim waits while others come, run and go; each one ends with the cost of the script."""
    line = Line(places)
    first = line.arrive("first")
    running: list[tuple[Claim, int]] = []
    served = Counter[str]()
    for owner, cost in script:
        line.arrive(owner)
        if len(running) == places:
            claim, spent = running.pop(0)
            line.shares.charge(claim, spent)
            line.shares.leave(claim)
            served[claim.owner] += spent
        claim = line.shares.next_to_start(lambda _: True)
        assert claim is not None
        line.shares.start(claim)
        running.append((claim, cost))
        if claim is first:
            return
    assert max(served.values(), default=0) <= 400 + QUANTUM, "nobody is served again before the first one is"


def test_one_that_may_not_give_way_does_not_stand_before_the_older_ones_of_its_owner() -> None:
    line = Line(4)
    hers = [line.run("a") for _ in range(4)]
    assert line.shares.giving_way(line.arrive("b"), lambda claim: claim is hers[0]) == [hers[0]]
