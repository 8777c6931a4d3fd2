"""Two owners and more of one engine, as transcripts: who is let in, whose prompt is computed, who gives way."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.engine.cpu.scripted import answer
from tests.unit.engine.cpu.transcript import Run, prompt, request

from quern.engine.base import Finished, GenerateRequest, Priority, Tokens
from quern.engine.cpu.scheduler import Preempted
from quern.engine.fair_shares import QUANTUM


def of(owner: str, ids: tuple[int, ...], max_tokens: int = 4, weight: float = 1.0) -> GenerateRequest:
    return replace(request(ids, max_tokens), owner=owner, weight=weight)


def preemptions(run: Run) -> Counter[int]:
    return Counter(notice.key for notice in run.notices if isinstance(notice.event, Preempted))


def running(run: Run) -> Counter[str]:
    return Counter(sequence.claim.owner for sequence in run.scheduler.running)


def test_one_request_beside_fifty_of_somebody_else_is_let_in_at_once_and_answered_without_a_pause() -> None:
    run = Run(blocks=4000, parallel=16)
    for number in range(50):
        run.arrive(of("ann", prompt(20, first=number), 200))
    run.steps(60)
    bob = run.arrive(replace(of("bob", prompt(8, first=7), 10), cache_salt="bob"))
    assert [step.get(bob) for step in run.steps(10)] == [8, *[1] * 9]
    assert run.finished(bob).timings.queued_ms == 0
    assert list(preemptions(run)) == [16], "the newest of hers gave way"
    run.steps(1)
    assert running(run) == Counter(ann=16), "an idle place belongs to whoever asks"
    run.finish()
    assert all(run.ids(key) == answer(prompt(20, first=key - 1), 200) for key in (1, 16, 50))


def test_places_are_shared_by_owner_and_the_newest_give_way() -> None:
    run = Run(blocks=4000, parallel=8)
    for number in range(20):
        run.arrive(of("ann", prompt(8, first=number), 100))
    run.steps(20)
    for number in range(20):
        run.arrive(of("bob", prompt(8, first=number), 100))
    run.steps(2)
    assert running(run) == Counter(ann=4, bob=4)
    assert sorted(preemptions(run)) == [5, 6, 7, 8]


def test_a_third_owner_takes_from_those_who_hold_most() -> None:
    run = Run(blocks=4000, parallel=6)
    for owner, count in (("ann", 10), ("bob", 1)):
        for number in range(count):
            run.arrive(of(owner, prompt(8, first=number), 300))
    run.steps(10)
    for number in range(10):
        run.arrive(of("eve", prompt(8, first=number), 300))
    run.step()
    assert running(run) == Counter(ann=3, bob=1, eve=2)


@pytest.mark.parametrize(("weights", "places"), [((1, 1), (4, 4)), ((3, 1), (6, 2)), ((1, 7), (1, 7))])
def test_places_go_by_weight(weights: tuple[float, float], places: tuple[int, int]) -> None:
    run = Run(blocks=4000, parallel=8)
    for owner, weight in zip(("ann", "bob"), weights, strict=True):
        for number in range(20):
            run.arrive(of(owner, prompt(8, first=number), 300, weight))
    run.step()
    assert (running(run)["ann"], running(run)["bob"]) == places


def test_with_one_place_owners_take_turns_of_some_length_and_nothing_thrashes() -> None:
    run = Run(blocks=4000, parallel=1)
    ann, bob = run.arrive(of("ann", prompt(8), 600)), run.arrive(of("bob", prompt(8, first=20), 600))
    turns: list[tuple[int, int]] = []
    while step := run.step():
        (key,) = step
        if turns and turns[-1][0] == key:
            turns[-1] = key, turns[-1][1] + 1
        else:
            turns.append((key, 1))
    assert {key for key, _ in turns[::2]} == {ann}
    assert all(length >= QUANTUM - 8 for _, length in turns[:-1])
    assert len(turns) <= 2 * 600 // QUANTUM + 2
    for key, ids in ((ann, prompt(8)), (bob, prompt(8, first=20))):
        assert run.ids(key) == answer(ids, 600)


def test_two_with_many_requests_each_do_not_push_each_other_out() -> None:
    run = Run(blocks=4000, parallel=8)
    for number in range(20):
        for owner in ("ann", "bob"):
            run.arrive(of(owner, prompt(8, first=number), 100))
    run.finish()
    assert not preemptions(run), "what both get is the same already"


def test_the_prompt_of_one_who_holds_less_is_computed_first() -> None:
    run = Run(blocks=4000, parallel=8, shared=16)
    for number in range(4):
        run.arrive(of("ann", prompt(400, first=number)))
    run.steps(2)
    bob = run.arrive(of("bob", prompt(96, first=30)))
    assert [step.get(bob) for step in run.steps(3)] == [32, 32, 32]


def test_owners_share_the_prompt_tokens_of_a_step_once_they_are_even() -> None:
    run = Run(blocks=8000, parallel=8, shared=32)
    keys = [run.arrive(of(owner, prompt(2000, first=index))) for index, owner in enumerate(("ann", "bob", "eve"))]
    counts: Counter[int] = Counter()
    for step in run.steps(30):
        counts.update(step)
    assert max(counts.values()) - min(counts[key] for key in keys) <= 16


def test_many_short_prompts_take_no_more_than_their_owners_share() -> None:
    run = Run(blocks=8000, parallel=16, shared=16)
    long = run.arrive(of("bob", prompt(3000), 1))
    computed = Counter[str]()
    for number in range(60):
        while len(run.scheduler.running) + len(run.scheduler.waiting) < 12:
            run.arrive(replace(of("ann", prompt(30, first=number), 1), cache_salt=f"{number} {len(run.notices)}"))
        for key, count in run.step().items():
            computed["bob" if key == long else "ann"] += count
    assert computed["bob"] >= computed["ann"] * 0.6


def test_what_was_cached_costs_nothing() -> None:
    run = Run(blocks=4000, parallel=2, shared=64)
    run.arrive(of("ann", prompt(400), 1))
    run.finish()
    ann, bob = run.arrive(of("ann", prompt(400), 40)), run.arrive(of("bob", prompt(400, first=7), 40))
    run.steps(8)
    claims = {sequence.key: sequence.claim for sequence in run.scheduler.running}
    levels = {key: run.scheduler._shares.level(claim) for key, claim in claims.items()}
    assert levels[bob] - levels[ann] > 380


def test_an_owner_that_was_idle_has_saved_nothing_up() -> None:
    run = Run(blocks=4000, parallel=4)
    run.arrive(of("bob", prompt(8), 1))
    run.finish()
    for number in range(40):
        run.arrive(of("ann", prompt(8, first=number), 40))
    run.steps(150)
    for number in range(20):
        run.arrive(of("bob", prompt(8, first=number), 40))
    run.step()
    assert running(run) == Counter(ann=2, bob=2), "he would have all places for a long time"
    run.steps(30)
    assert running(run) == Counter(ann=2, bob=2)


def test_an_owner_that_used_an_idle_engine_owes_nothing_for_it() -> None:
    run = Run(blocks=4000, parallel=4)
    for number in range(4):
        run.arrive(of("ann", prompt(8, first=number), 500))
    run.steps(200)
    for number in range(10):
        run.arrive(of("bob", prompt(8, first=number), 500))
    run.steps(40)
    assert running(run) == Counter(ann=2, bob=2)


def test_where_blocks_run_out_the_newest_of_whoever_has_had_most_gives_way() -> None:
    run = Run(blocks=24, parallel=4)
    bob = run.arrive(of("bob", prompt(8, first=40), 30))
    anns = [run.arrive(of("ann", prompt(8, first=10 * number), 30)) for number in range(2)]
    run.finish()
    assert not run.reported(bob, Preempted)
    assert preemptions(run)[anns[1]]


def test_three_large_prompts_do_not_keep_another_owner_out() -> None:
    run = Run(blocks=300, parallel=16)
    large = [run.arrive(of("ann", prompt(480, first=number), 40)) for number in range(3)]
    run.steps(10)
    bob = run.arrive(of("bob", prompt(40, first=3), 8))
    assert bob in run.step()
    run.finish()
    assert run.finished(bob).timings.queued_ms == 0
    assert all(run.ids(key) == answer(prompt(480, first=number), 40) for number, key in enumerate(large))


def test_three_large_prompts_of_ones_own_are_overtaken_but_not_starved() -> None:
    run = Run(blocks=300, parallel=16)
    large = [run.arrive(request(prompt(480, first=number), 40)) for number in range(3)]
    run.step()
    arrivals = 0
    while not run.reported(large[2], Finished):
        if run.clock % 2 == 0:
            run.arrive(request(prompt(30, first=arrivals), 8))
            arrivals += 1
        run.step()
        assert run.clock < 1500, "it is starved"
    waited = [run.finished(key).timings.queued_ms for key in range(4, 8)]
    assert max(waited[:2]) < 1000 * 10, "the first small ones went before it"


def test_an_urgent_flood_of_one_owner_leaves_others_their_share_of_urgency() -> None:
    run = Run(blocks=4000, parallel=4)
    for number in range(30):
        run.arrive(replace(of("ann", prompt(8, first=number), 60), priority=Priority.INTERACTIVE))
    run.steps(5)
    bob = run.arrive(replace(of("bob", prompt(8, first=3), 4), priority=Priority.INTERACTIVE))
    assert bob in run.step()


OWNERS = ("ann", "bob", "eve")
ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.sampled_from(OWNERS),
        st.integers(1, 40),
        st.integers(1, 30),
        st.sampled_from([Priority.NORMAL, Priority.NORMAL, *Priority]),
    ),
    min_size=1,
    max_size=16,
)


@settings(max_examples=150, deadline=None)
@given(arrivals=ARRIVALS, blocks=st.integers(18, 60), parallel=st.integers(1, 5), shared=st.integers(1, 8))
def test_work_is_conserved_and_everybody_comes_to_the_right_end(
    arrivals: list[tuple[int, str, int, int, Priority]], blocks: int, parallel: int, shared: int
) -> None:
    run = Run(blocks=blocks, parallel=parallel, shared=shared)
    expected: dict[int, tuple[int, ...]] = {}
    coming = sorted(arrivals, key=lambda arrival: arrival[0])
    while coming or run.scheduler.running or run.scheduler.waiting:
        while coming and coming[0][0] <= run.clock:
            _, owner, tokens, max_tokens, priority = coming.pop(0)
            key = run.arrive(replace(of(owner, prompt(tokens), max_tokens), priority=priority))
            expected[key] = answer(prompt(tokens), max_tokens)
        computed = run.step()
        assert computed or not (run.scheduler.running or run.scheduler.waiting), "somebody waits and nothing is done"
        assert run.clock < 3000, "somebody never finishes"
    assert all(run.ids(key) == ids for key, ids in expected.items())
    assert run.every_block_can_be_had()


@settings(max_examples=12, deadline=None)
@given(
    weights=st.tuples(*[st.sampled_from([0.5, 1.0, 2.0, 3.0])] * 2),
    tokens=st.tuples(st.integers(4, 60), st.integers(4, 60)),
    answers=st.tuples(st.integers(4, 60), st.integers(4, 60)),
)
def test_in_the_long_run_what_is_computed_goes_by_weight(
    weights: tuple[float, float], tokens: tuple[int, int], answers: tuple[int, int]
) -> None:
    run = Run(blocks=2000, parallel=6, shared=16)
    computed, owners = Counter[str](), dict[int, str]()
    for step in range(700):
        for index, owner in enumerate(OWNERS[:2]):
            while sum(sequence.claim.owner == owner for sequence in run.scheduler.waiting) < 6:
                asked = of(owner, prompt(tokens[index], first=step), answers[index], weights[index])
                owners[run.arrive(replace(asked, cache_salt=f"{owner} {len(owners)}"))] = owner
        for key, count in run.step().items():
            computed[owners[key]] += count
    virtual = [computed[owner] / weight for owner, weight in zip(OWNERS, weights, strict=False)]
    assert abs(virtual[0] - virtual[1]) <= 12 * QUANTUM / min(weights) + 0.1 * max(virtual)


def test_tokens_are_told_in_turn_whoever_they_are_for() -> None:
    run = Run(blocks=200, parallel=4)
    keys = [run.arrive(of(owner, prompt(4, first=index), 12)) for index, owner in enumerate((*OWNERS, "ann"))]
    run.finish()
    assert all(len(run.reported(key, Tokens)) == 12 for key in keys)
