"""What each step computes, as transcripts: who arrives, then for every step who computes how many tokens."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.engine.cpu.scripted import answer
from tests.unit.engine.cpu.transcript import Run, prompt, request

from quern.engine.base import Finished, Priority, Tokens
from quern.engine.cpu.model import Drawn
from quern.engine.cpu.scheduler import Notice, Preempted, Released, Resumed
from quern.errors import EngineFailed
from quern.events import Prefill, Queued
from quern.types import FinishReason, Usage


def test_one_sequence_from_its_prompt_to_its_end() -> None:
    run = Run(shared=4)
    key = run.arrive(request(prompt(20), max_tokens=3))
    assert run.steps(6) == [{1: 8}, {1: 8}, {1: 4}, {1: 1}, {1: 1}, {}]
    first, second, third = answer(prompt(20), 3)
    assert run.reported(key) == [
        Prefill(0, 20, 0),
        Prefill(8, 20, 0),
        Prefill(16, 20, 0),
        Prefill(20, 20, 0),
        Tokens((first,)),
        Tokens((second,)),
        Tokens((third,)),
        run.finished(key),
    ]
    end = run.finished(key)
    assert (end.reason, end.usage) == (FinishReason.LENGTH, Usage(20, 0, 3))
    assert (end.timings.queued_ms, end.timings.prefill_ms, end.timings.decode_ms) == (0, 3000, 2000)


def test_one_that_goes_on_computes_what_it_had_drawn_and_is_counted_as_a_whole() -> None:
    run = Run(shared=4)
    whole = answer(prompt(6), 7)
    key = run.arrive(replace(request(prompt(6), max_tokens=7), generated=whole[:5]))
    assert run.steps(4) == [{1: 8}, {1: 3}, {1: 1}, {}]
    assert run.reported(key) == [
        Prefill(0, 11, 0),
        Prefill(8, 11, 0),
        Prefill(11, 11, 0),
        Tokens(whole[5:6]),
        Tokens(whole[6:]),
        run.finished(key),
    ]
    end = run.finished(key)
    assert (end.reason, end.usage) == (FinishReason.LENGTH, Usage(6, 0, 7))


def test_one_that_goes_on_finds_its_answer_in_the_cache_and_counts_no_more_than_its_prompt_as_cached() -> None:
    run = Run()
    asked = request(prompt(6), max_tokens=12)
    run.arrive(asked)
    run.finish()
    key = run.arrive(replace(asked, generated=answer(prompt(6), 9)))
    run.finish()
    assert run.reported(key, Prefill)[0] == Prefill(12, 15, 12)
    assert run.ids(key) == answer(prompt(6), 12)[9:]
    assert run.finished(key).usage == Usage(6, 6, 12)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12), st.integers(1, 12)), min_size=2, max_size=6))
@settings(deadline=None)
def test_whoever_goes_on_among_others_that_push_it_out_has_the_answer_of_a_single_life(
    sizes: list[tuple[int, int, int]],
) -> None:
    run = Run(blocks=10, parallel=3)
    keys: dict[int, tuple[int, int]] = {}
    for first, (length, before, after) in enumerate(sizes):
        whole = answer(prompt(length, first), before)
        asked = request(prompt(length, first), max_tokens=before + after)
        keys[run.arrive(replace(asked, generated=whole))] = (first, length)
    run.finish()
    for (key, (first, length)), (_, before, after) in zip(keys.items(), sizes, strict=True):
        assert run.ids(key) == answer(prompt(length, first), before + after)[before:]
        assert run.finished(key).usage.completion_tokens == before + after
        assert run.finished(key).usage.prompt_tokens == length
    assert run.every_block_can_be_had()


def test_a_prompt_joins_those_who_write_in_small_chunks() -> None:
    run = Run(shared=8)
    run.arrive(request(prompt(4), max_tokens=20))
    assert run.step() == {1: 4}
    run.arrive(request(prompt(20, first=9)))
    assert run.steps(4) == [{1: 1, 2: 8}, {1: 1, 2: 8}, {1: 1, 2: 4}, {1: 1, 2: 1}]


def test_a_short_prompt_does_not_wait_behind_a_long_one() -> None:
    run = Run(shared=32)
    run.arrive(request(prompt(150)))
    assert run.step() == {1: 64}
    run.arrive(request(prompt(10, first=9)))
    assert run.steps(2) == [{1: 54, 2: 10}, {2: 1, 1: 32}]


def test_a_sequence_for_which_nothing_can_be_drawn_fails_alone() -> None:
    run = Run()
    broken, sound = run.arrive(request(prompt(5))), run.arrive(request(prompt(5, first=9)))
    step = run.scheduler.plan(run.clock)
    drawn = [
        Drawn(failure="It is broken.") if part.sequence.key == broken else tokens
        for part, tokens in zip(step.parts, run.model.forward(step.parts), strict=True)
    ]
    run.notices += run.scheduler.apply(step, drawn, run.clock)
    run.finish()
    assert [str(news) for news in run.reported(broken, EngineFailed)] == ["It is broken."]
    assert run.ids(sound) == answer(prompt(5, first=9), 4)


def test_a_stop_id_is_the_end_and_is_not_told() -> None:
    run = Run()
    ids = answer(prompt(5), 8)
    stop = ids[3]
    assert stop not in ids[:3]
    key = run.arrive(replace(request(prompt(5), max_tokens=8), stop_token_ids=frozenset({stop})))
    run.finish()
    assert run.ids(key) == ids[:3]
    assert (run.finished(key).reason, run.finished(key).usage.completion_tokens) == (FinishReason.STOP, 3)


def test_a_stop_id_at_once_is_an_empty_answer() -> None:
    run = Run()
    stop = answer(prompt(5), 1)[0]
    key = run.arrive(replace(request(prompt(5)), stop_token_ids=frozenset({stop})))
    run.finish()
    assert run.ids(key) == ()
    assert run.finished(key).usage == Usage(5, 0, 0)


def test_those_without_a_place_wait_in_order_and_are_told_their_positions() -> None:
    run = Run(parallel=1)
    for _ in range(3):
        run.arrive(request(prompt(5), max_tokens=2))
    first = run.arrive(replace(request(prompt(5), max_tokens=2), priority=Priority.INTERACTIVE))
    run.step()
    assert [run.reported(key) for key in (1, 2, 3)] == [[Queued(1)], [Queued(2)], [Queued(3)]]
    assert Queued not in map(type, run.reported(first))
    run.finish()
    assert [run.reported(key, Queued) for key in (2, 3)] == [[Queued(2), Queued(1)], [Queued(3), Queued(2), Queued(1)]]
    assert run.finished(1).timings.queued_ms == 2000


def test_the_next_turn_finds_prompt_and_answer_in_the_cache() -> None:
    run = Run()
    run.arrive(request(prompt(10), max_tokens=7))
    run.finish()
    # 16 of 17 tokens are computed: the last one was drawn and never fed.
    follow_up = (*prompt(10), *answer(prompt(10), 7), 1, 2, 3)
    key = run.arrive(request(follow_up))
    assert run.step() == {2: 4}
    run.finish()
    assert run.finished(key).usage.cached_tokens == 16
    assert run.reported(key, Prefill)[0] == Prefill(16, 20, 16)
    assert run.ids(key) == answer(follow_up, 4)


def test_the_last_token_of_a_known_prompt_is_computed_again() -> None:
    run = Run()
    for _ in range(2):
        run.arrive(request(prompt(8)))
        run.finish()
    assert run.finished(2).usage.cached_tokens == 4
    assert run.ids(1) == run.ids(2)


def test_another_salt_finds_nothing() -> None:
    run = Run()
    run.arrive(request(prompt(8), salt="alice"))
    run.finish()
    run.arrive(request(prompt(8), salt="mallory"))
    run.finish()
    assert run.finished(2).usage.cached_tokens == 0


def test_small_ones_overtake_a_large_one_that_finds_no_room_until_they_are_as_large_together() -> None:
    run = Run(blocks=16)
    run.arrive(request(prompt(40), max_tokens=20))
    run.step()
    large = run.arrive(request(prompt(24, first=3), max_tokens=4))
    small = [run.arrive(request(prompt(2, first=number), max_tokens=8)) for number in range(4)]
    run.steps(40)
    assert not run.reported(large, Preempted)
    starts = [run.finished(key).timings.queued_ms for key in (large, *small)]
    assert starts[1] == starts[2] == 0, "two of them take 20 of the 28 tokens that the large one is"
    assert 0 < starts[0] <= starts[3] == starts[4], "a third one would be too much"


def test_nobody_is_let_in_whom_the_next_block_would_push_out_again() -> None:
    run = Run(blocks=5)
    run.arrive(request(prompt(8), max_tokens=9))
    run.step()
    run.arrive(request(prompt(8, first=7), max_tokens=9))
    run.step()
    assert len(run.held_blocks()) == 3, "enough is left for its prompt"
    assert [sequence.key for sequence in run.scheduler.waiting] == [2]
    run.finish()
    assert not run.reported(2, Preempted)


def test_where_blocks_run_out_the_latest_waits_again_and_no_token_is_told_twice() -> None:
    run = Run(blocks=8)
    first = run.arrive(request(prompt(8), max_tokens=20))
    second = run.arrive(request(prompt(8, first=20), max_tokens=20))
    run.finish()
    assert len(run.reported(second, Preempted)) == len(run.reported(second, Resumed)) > 0
    assert not run.reported(first, Preempted)
    for key, ids in ((first, prompt(8)), (second, prompt(8, first=20))):
        assert run.ids(key) == answer(ids, 20)
        assert run.finished(key).usage == Usage(8, 0, 20)
    kinds = [type(news) for news in run.reported(second) if not isinstance(news, Preempted | Resumed)]
    assert kinds == [*[Prefill] * 2, *[Tokens] * 20, Finished], "a preempted sequence tells nothing that goes backwards"


def test_a_higher_priority_keeps_its_blocks_although_it_came_later() -> None:
    run = Run(blocks=8)
    normal = run.arrive(request(prompt(8), max_tokens=20))
    interactive = run.arrive(
        replace(request(prompt(8, first=20), max_tokens=20), priority=Priority.INTERACTIVE),
    )
    run.finish()
    assert run.reported(normal, Preempted)
    assert not run.reported(interactive, Preempted)
    assert run.ids(normal) == answer(prompt(8), 20)


def test_a_grammar_that_allows_nothing_more_ends_the_answer_even_with_its_last_token() -> None:
    for max_tokens in (3, 10):
        run = Run()
        key = run.arrive(request(prompt(5), max_tokens))
        run.steps(2)
        step = run.scheduler.plan(run.clock)
        (drawn,) = run.model.forward(step.parts)
        run.notices += run.scheduler.apply(step, [replace(drawn, complete=True)], run.clock)
        run.finish()
        assert run.ids(key) == answer(prompt(5), 3)
        assert run.finished(key).reason is FinishReason.STOP


def test_a_preempted_sequence_is_first_in_line_again() -> None:
    run = Run(blocks=8)
    run.arrive(request(prompt(8), max_tokens=20))
    second = run.arrive(request(prompt(8, first=20), max_tokens=20))
    run.step()
    run.arrive(request(prompt(8, first=30)))
    while not run.reported(second, Preempted):
        run.step()
    assert [sequence.key for sequence in run.scheduler.waiting] == [2, 3]


def test_what_is_cancelled_leaves_its_place_and_its_blocks_at_once() -> None:
    run = Run(parallel=1)
    running, waiting = run.arrive(request(prompt(40), max_tokens=50)), run.arrive(request(prompt(5)))
    run.steps(2)
    for key in (running, waiting):
        assert run.scheduler.cancel(key) == [Notice(key, Released())]
        assert run.scheduler.cancel(key) == []
    assert run.step() == {}
    assert (run.scheduler.running, run.scheduler.waiting) == ((), ())
    assert run.every_block_can_be_had()


def test_a_lost_step_ends_who_runs_forgets_the_cache_and_keeps_who_waits() -> None:
    run = Run(parallel=1)
    run.arrive(request(prompt(10), max_tokens=2))
    run.finish()
    running, waiting = run.arrive(request(prompt(12), max_tokens=50)), run.arrive(request(prompt(10)))
    run.steps(2)
    (notice,) = run.scheduler.lose("It is lost.")
    assert (notice.key, str(notice.event), type(notice.event)) == (running, "It is lost.", EngineFailed)
    run.finish()
    assert run.finished(waiting).usage == Usage(10, 0, 4)


def test_where_nobody_runs_a_lost_step_ends_who_waits() -> None:
    run = Run()
    keys = [run.arrive(request(prompt(10))) for _ in range(2)]
    assert [notice.key for notice in run.scheduler.lose("It is lost.")] == keys
    assert run.step() == {}


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 12),  # the step before which it arrives
        st.integers(1, 20),  # prompt tokens, of a pattern that others share
        st.integers(1, 12),  # max_tokens
        st.sampled_from(["", "alice"]),
        st.sampled_from(Priority),
        st.sampled_from([None, None, 1, 5]),  # cancelled after so many steps
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200)
@given(arrivals=ARRIVALS, blocks=st.integers(8, 16), parallel=st.integers(1, 4), shared=st.integers(1, 8))
def test_whatever_shares_the_blocks_every_answer_is_its_own_prompts_and_nothing_leaks(
    arrivals: list[tuple[int, int, int, str, Priority, int | None]], blocks: int, parallel: int, shared: int
) -> None:
    run = Run(blocks=blocks, parallel=parallel, shared=shared)
    expected: dict[int, tuple[int, ...]] = {}
    cancelled: dict[int, float] = {}
    coming = sorted(arrivals, key=lambda arrival: arrival[0])
    while coming or run.scheduler.running or run.scheduler.waiting:
        while coming and coming[0][0] <= run.clock:
            _, tokens, max_tokens, salt, priority, steps = coming.pop(0)
            key = run.arrive(replace(request(prompt(tokens), max_tokens, salt), priority=priority))
            expected[key] = answer(prompt(tokens), max_tokens)
            if steps is not None:
                cancelled[key] = run.clock + steps
        for key in [key for key, moment in cancelled.items() if moment <= run.clock]:
            del cancelled[key]
            run.notices += run.scheduler.cancel(key)
        run.step()
        assert run.clock < 1000, "somebody never finishes"
    for key, ids in expected.items():
        if run.reported(key, Released):
            assert run.ids(key) == ids[: len(run.ids(key))]
            assert not run.reported(key, Finished)
        else:
            assert run.ids(key) == ids
            assert run.finished(key).usage.completion_tokens == len(ids)
    assert run.every_block_can_be_had()
