"""Who gives way to whom, as transcripts."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.engine.cpu.scripted import answer
from tests.unit.engine.cpu.transcript import Run, prompt, request

from quern.engine.base import Finished, GenerateRequest, Priority, Tokens
from quern.engine.cpu.scheduler import Preempted
from quern.engine.fair_shares import MINIMUM_RUN


def urgent(ids: tuple[int, ...], max_tokens: int = 4) -> GenerateRequest:
    return replace(request(ids, max_tokens), priority=Priority.INTERACTIVE)


def background(ids: tuple[int, ...], max_tokens: int = 4) -> GenerateRequest:
    return replace(request(ids, max_tokens), priority=Priority.BACKGROUND)


def test_an_urgent_one_takes_the_place_of_the_last_in_order_who_goes_on_afterwards() -> None:
    run = Run(parallel=2)
    first, second = run.arrive(request(prompt(8), 20)), run.arrive(request(prompt(8, first=20), 20))
    run.steps(3)
    third = run.arrive(urgent(prompt(6, first=40), 3))
    assert run.steps(4) == [{3: 6}, {3: 1}, {3: 1}, {1: 1, 2: 3}]
    assert run.finished(third).timings.queued_ms == 0
    run.finish()
    assert [len(run.reported(key, Preempted)) for key in (first, second, third)] == [0, 1, 0]
    for key, ids in ((first, prompt(8)), (second, prompt(8, first=20))):
        assert run.ids(key) == answer(ids, 20)


def test_of_four_steps_three_are_urgent_ones_alone_and_everybody_takes_part_in_the_fourth() -> None:
    run = Run()
    chat = run.arrive(request(prompt(4), 30))
    run.steps(2)
    run.arrive(urgent(prompt(20, first=9), 5))
    run.arrive(urgent(prompt(3, first=40), 2))
    assert run.steps(8) == [
        {2: 13, 3: 3},
        {2: 7, 3: 1},
        {2: 1},
        {1: 1, 2: 1},
        {2: 1},
        {2: 1},
        {1: 1},
        {1: 1},
    ]
    run.finish()
    assert run.ids(chat) == answer(prompt(4), 30)


def test_urgent_ones_among_themselves_share_every_step() -> None:
    run = Run()
    for number in range(2):
        run.arrive(urgent(prompt(4, first=9 * number), 6))
    run.step()
    assert run.steps(5) == [{1: 1, 2: 1}] * 5


def test_an_urgent_one_takes_the_blocks_of_as_few_as_will_do() -> None:
    run = Run(blocks=12)
    keys = [run.arrive(request(prompt(12, first=13 * number), 4)) for number in range(3)]
    run.step()
    assert len(run.held_blocks()) == 9
    run.arrive(urgent(prompt(8, first=5)))
    run.step()
    assert [len(run.reported(key, Preempted)) for key in keys] == [0, 0, 1]
    run.finish()
    assert [len(run.reported(key, Preempted)) for key in keys] == [0, 0, 1]


def test_nobody_gives_way_in_vain() -> None:
    run = Run(blocks=10)
    small, large = run.arrive(request(prompt(4))), run.arrive(urgent(prompt(20, first=9), 12))
    run.step()
    run.arrive(urgent(prompt(20, first=30)))
    run.steps(5)
    assert not run.reported(small, Preempted), "its block would not be enough"
    run.finish()
    assert not run.reported(large, Preempted)


def test_nobody_gives_way_to_an_equal() -> None:
    for make in (request, urgent, background):
        run = Run(parallel=1)
        first = run.arrive(make(prompt(8), 10))
        run.step()
        second = run.arrive(make(prompt(8, first=20)))
        run.finish()
        assert not run.reported(first, Preempted)
        assert run.finished(second).timings.queued_ms > 0


def test_the_lowest_priority_gives_way_first_although_it_came_first() -> None:
    run = Run(parallel=2)
    low, normal = run.arrive(background(prompt(8), 20)), run.arrive(request(prompt(8, first=20), 20))
    run.step()
    run.arrive(urgent(prompt(6, first=40)))
    run.step()
    assert run.reported(low, Preempted)
    assert not run.reported(normal, Preempted)
    run.arrive(request(prompt(6, first=10)))
    run.step()
    assert [sequence.key for sequence in run.scheduler.waiting] == [4, 1], "the lowest waits behind all others"
    run.finish()
    assert run.ids(low) == answer(prompt(8), 20)


def test_one_who_types_without_a_pause_does_not_keep_a_long_answer_from_its_end() -> None:
    run = Run(blocks=150, parallel=1)
    long = run.arrive(request(prompt(30), 500))
    arrivals = 0
    while not run.reported(long, Finished):
        if not run.scheduler.waiting and run.clock % 3 == 0:
            run.arrive(urgent(prompt(9, first=arrivals), 1))
            arrivals += 1
        run.step()
        assert run.clock < 1000, "the long answer never ends"
    assert arrivals > 5
    assert len(run.reported(long, Preempted)) <= 500 // MINIMUM_RUN + 1, "it gets further before it gives way again"
    assert run.ids(long) == answer(prompt(30), 500)


def test_urgent_ones_leave_a_quarter_of_the_places_to_those_who_have_them() -> None:
    run = Run(blocks=400, parallel=4)
    chats = [run.arrive(request(prompt(4, first=number), 60)) for number in range(4)]
    run.steps(2)
    for number in range(32):
        run.arrive(urgent(prompt(9, first=number), 30))
    run.steps(40)
    assert [len(run.reported(key, Preempted)) for key in chats] == [0, 1, 1, 1]
    assert len(run.ids(chats[0])) >= 40 // 4, "it takes part in one step of four"


def test_urgent_ones_that_filled_an_idle_server_make_way_for_a_chat() -> None:
    run = Run(blocks=400, parallel=4)
    for number in range(8):
        run.arrive(urgent(prompt(9, first=number), 100))
    run.steps(4)
    chat = run.arrive(request(prompt(4), 10))
    run.steps(20)
    assert run.ids(chat), "three quarters of the places are theirs"
    assert len([key for key in range(1, 9) if run.reported(key, Preempted)]) == 1


def test_urgent_ones_take_no_more_than_three_quarters_of_the_blocks_from_others() -> None:
    run = Run(blocks=40, parallel=8)
    chats = [run.arrive(request(prompt(36, first=number), 8)) for number in range(3)]
    run.steps(10)
    for number in range(6):
        run.arrive(urgent(prompt(36, first=10 + number), 4))
    run.step()
    assert [len(run.reported(key, Preempted)) for key in chats] == [0, 1, 1]
    run.finish()
    assert all(run.ids(key) == answer(prompt(36, first=number), 8) for number, key in enumerate(chats))


def test_where_there_is_one_place_only_every_fourth_time_it_is_not_an_urgent_ones() -> None:
    run = Run(blocks=400, parallel=1)
    for number in range(8):
        run.arrive(urgent(prompt(4, first=number), 4))
    run.step()
    chat = run.arrive(request(prompt(4, first=40), 4))
    run.finish()
    ends = sorted(range(1, 10), key=lambda key: run.finished(key).timings.queued_ms + (key == chat) * 0.1)
    assert ends.index(chat) == 3 + 1, "one ran already, three go first"


def test_a_running_one_that_nobody_waits_for_any_more_gives_way_and_gets_its_place_back() -> None:
    run = Run(parallel=1)
    unread = request(prompt(8), 20)
    first = run.arrive(unread)
    run.steps(3)
    second = run.arrive(request(prompt(8, first=20), 6))
    run.step()
    assert not run.reported(second, Tokens)
    unread.override.priority = Priority.BACKGROUND
    run.step()
    assert run.reported(first, Preempted)
    unread.override.priority = None
    run.finish()
    assert not run.reported(second, Preempted), "the reader came back too late for that"
    assert run.ids(first) == answer(prompt(8), 20)


def test_what_nobody_waits_for_gives_way_every_time_at_once() -> None:
    run = Run(blocks=150, parallel=1)
    behind = run.arrive(background(prompt(30), 20))
    waited: list[float] = []
    for number in range(5):
        run.steps(4)
        chat = run.arrive(request(prompt(9, first=number), 2))
        while not run.reported(chat, Finished):
            run.step()
        waited.append(run.finished(chat).timings.queued_ms)
    assert waited == [0] * 5
    run.finish()
    assert run.ids(behind) == answer(prompt(30), 20)
