"""Sequences that are embedded, among others: as transcripts, and each one's vector is that of its own tokens."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engine.cpu.scripted import answer, direction
from tests.unit.engine.cpu.transcript import BLOCK, Run, prompt, request

from quern.engine.base import EmbedRequest, Priority
from quern.engine.cpu.model import Drawn
from quern.engine.cpu.scheduler import Embedded, Preempted, Released
from quern.errors import EngineFailed
from quern.events import Prefill


def embed(ids: tuple[int, ...], salt: str = "", priority: Priority = Priority.NORMAL) -> EmbedRequest:
    return EmbedRequest(ids, priority, salt)


def test_one_sequence_from_its_first_token_to_its_vector() -> None:
    run = Run(shared=4)
    key = run.arrive(embed(prompt(20)))
    assert run.steps(4) == [{1: 8}, {1: 8}, {1: 4}, {}]
    vector = Embedded(direction(prompt(20)))
    assert run.reported(key) == [Prefill(0, 20, 0), Prefill(8, 20, 0), Prefill(16, 20, 0), Prefill(20, 20, 0), vector]
    assert run.scheduler.running == ()
    assert run.every_block_can_be_had()


def test_its_last_token_alone_makes_nobodys_step_small() -> None:
    """A step is small while somebody writes, and nobody does."""
    run = Run(shared=4)
    run.arrive(embed(prompt(9)))
    assert run.step() == {1: 8}
    run.arrive(embed(prompt(20, first=9)))
    assert run.step() == {1: 1, 2: 7}


def test_it_shares_steps_with_those_who_write_and_with_other_prompts() -> None:
    run = Run(shared=8)
    writer = run.arrive(request(prompt(4), max_tokens=6))
    run.step()
    first, second = run.arrive(embed(prompt(10, first=9))), run.arrive(embed(prompt(3, first=30)))
    assert run.steps(2) == [{1: 1, 2: 5, 3: 3}, {1: 1, 2: 5}]
    run.finish()
    assert run.ids(writer) == answer(prompt(4), 6)
    assert run.vector(first) == direction(prompt(10, first=9))
    assert run.vector(second) == direction(prompt(3, first=30))


def test_a_prefix_that_is_known_is_not_computed_again_under_the_same_salt() -> None:
    run = Run(shared=16)
    run.arrive(embed(prompt(20), salt="a"))
    run.finish()
    again, other = run.arrive(embed(prompt(22), salt="a")), run.arrive(embed(prompt(22), salt="b"))
    assert run.step() == {again: 2, other: 22}
    assert run.vector(again) == run.vector(other) == direction(prompt(22))


def test_one_in_the_background_gives_way_and_is_embedded_once_afterwards() -> None:
    run = Run(blocks=8, parallel=2, shared=4)
    behind = run.arrive(embed(prompt(7 * BLOCK), priority=Priority.BACKGROUND))
    run.step()
    ahead = run.arrive(embed(prompt(6, first=9)))
    run.finish()
    assert run.reported(behind, Preempted)
    assert run.vector(behind) == direction(prompt(7 * BLOCK))
    assert run.vector(ahead) == direction(prompt(6, first=9))
    assert [notice.key for notice in run.notices if isinstance(notice.event, Embedded)] == [ahead, behind]


def test_a_cancelled_one_leaves_with_its_blocks() -> None:
    run = Run(shared=4)
    key = run.arrive(embed(prompt(30)))
    run.step()
    assert [notice.event for notice in run.scheduler.cancel(key)] == [Released()]
    assert run.step() == {}
    assert run.every_block_can_be_had()


def test_one_without_a_vector_fails_alone() -> None:
    run = Run()
    broken, sound = run.arrive(embed(prompt(5))), run.arrive(embed(prompt(5, first=9)))
    step = run.scheduler.plan(run.clock)
    outcomes = [
        Drawn(failure="It is broken.") if part.sequence.key == broken else outcome
        for part, outcome in zip(step.parts, run.model.forward(step.parts), strict=True)
    ]
    run.notices += run.scheduler.apply(step, outcomes, run.clock)
    assert [str(news) for news in run.reported(broken, EngineFailed)] == ["It is broken."]
    assert run.vector(sound) == direction(prompt(5, first=9))
    assert run.every_block_can_be_had()


ARRIVALS = st.tuples(st.booleans(), st.integers(1, 24), st.integers(0, 3), st.sampled_from(Priority), st.integers(0, 3))


@given(st.lists(ARRIVALS, min_size=1, max_size=8), st.integers(9, 20), st.integers(1, 3))
def test_whoever_comes_whenever_everyone_gets_what_is_right(
    arrivals: list[tuple[bool, int, int, Priority, int]], blocks: int, parallel: int
) -> None:
    run = Run(blocks=blocks, parallel=parallel, shared=4)
    keys: list[int] = []
    for embeds, tokens, first, priority, steps in arrivals:
        ids = prompt(tokens, first)
        keys.append(run.arrive(embed(ids, "", priority) if embeds else replace(request(ids), priority=priority)))
        run.steps(steps)
    run.finish()
    for key, (embeds, tokens, first, _, _) in zip(keys, arrivals, strict=True):
        ids = prompt(tokens, first)
        if embeds:
            assert run.vector(key) == direction(ids)
        else:
            assert run.ids(key) == answer(ids, 4)
    assert run.every_block_can_be_had()
