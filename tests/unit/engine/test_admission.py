"""Who runs and who waits, as transcripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.engine.admission import LEAVING_TOKENS, REVIEWED_TOKENS, Admission, Place
from quern.engine.base import EmbedRequest, GenerateRequest, Priority
from quern.engine.fair_shares import MINIMUM_RUN, QUANTUM
from quern.sampling import SamplingParams


def asking(priority: Priority, owner: str = "", weight: float = 1.0) -> EmbedRequest:
    return EmbedRequest((0,), priority, owner=owner, weight=weight)


def _transcript(admission: Admission, names: dict[str, Place]) -> dict[str, int]:
    """Each name's position; 0 runs."""
    return {name: admission.position(place) for name, place in names.items()}


def test_requests_run_until_the_sequences_are_taken_then_wait_in_order() -> None:
    admission = Admission(parallel=2, kv_tokens=1000)
    places = {name: admission.arrive(10, asking(Priority.NORMAL)) for name in "abcd"}
    assert _transcript(admission, places) == {"a": 0, "b": 0, "c": 1, "d": 2}
    admission.leave(places.pop("a"))
    assert _transcript(admission, places) == {"b": 0, "c": 0, "d": 1}
    assert (admission.running, admission.waiting) == (2, 1)


def test_a_higher_priority_goes_to_the_front_but_interrupts_nobody() -> None:
    admission = Admission(parallel=1, kv_tokens=1000)
    places = {
        "runs": admission.arrive(10, asking(Priority.BACKGROUND)),
        "background": admission.arrive(10, asking(Priority.BACKGROUND)),
        "normal": admission.arrive(10, asking(Priority.NORMAL)),
        "later normal": admission.arrive(10, asking(Priority.NORMAL)),
        "interactive": admission.arrive(10, asking(Priority.INTERACTIVE)),
    }
    assert _transcript(admission, places) == {
        "runs": 0,
        "interactive": 1,
        "normal": 2,
        "later normal": 3,
        "background": 4,
    }


def test_a_request_whose_reservation_does_not_fit_waits_although_a_sequence_is_free() -> None:
    admission = Admission(parallel=4, kv_tokens=100)
    places = {
        "large": admission.arrive(80, asking(Priority.NORMAL)),
        "second": admission.arrive(30, asking(Priority.NORMAL)),
    }
    assert _transcript(admission, places) == {"large": 0, "second": 1}
    admission.leave(places.pop("large"))
    assert _transcript(admission, places) == {"second": 0}


def test_small_requests_overtake_a_large_one_that_waits_for_room_by_no_more_than_its_own_size() -> None:
    admission = Admission(parallel=16, kv_tokens=100)
    places = {
        "runs": admission.arrive(60, asking(Priority.NORMAL)),
        "large": admission.arrive(50, asking(Priority.NORMAL)),
    }
    for number in range(6):
        small = admission.arrive(20, asking(Priority.NORMAL))
        places[f"small {number}"] = small
        if admission.position(small) == 0 and number < 4:
            admission.leave(places.pop(f"small {number}"))
    assert _transcript(admission, places) == {
        "runs": 0,
        "large": 1,
        **{f"small {number}": number for number in (2, 3, 4, 5)},
    }, "two of them went on before it; a third one would be too much"
    admission.leave(places.pop("runs"))
    assert _transcript(admission, places) == {"large": 0, "small 2": 0, "small 3": 0, "small 4": 1, "small 5": 2}


def test_leaving_the_line_moves_everyone_behind_up() -> None:
    admission = Admission(parallel=1, kv_tokens=100)
    places = {name: admission.arrive(10, asking(Priority.NORMAL)) for name in "abcd"}
    admission.leave(places.pop("b"))
    assert _transcript(admission, places) == {"a": 0, "c": 1, "d": 2}


def test_when_the_first_in_line_leaves_those_who_fit_go_on() -> None:
    admission = Admission(parallel=4, kv_tokens=100)
    places = {
        "runs": admission.arrive(60, asking(Priority.NORMAL)),
        "large": admission.arrive(90, asking(Priority.NORMAL)),
        "small": admission.arrive(10, asking(Priority.NORMAL)),
    }
    admission.leave(places.pop("large"))
    assert _transcript(admission, places) == {"runs": 0, "small": 0}


def test_leaving_twice_frees_a_reservation_once() -> None:
    admission = Admission(parallel=4, kv_tokens=100)
    place = admission.arrive(100, asking(Priority.NORMAL))
    admission.leave(place)
    admission.leave(place)
    assert admission.position(admission.arrive(100, asking(Priority.NORMAL))) == 0
    assert admission.position(admission.arrive(1, asking(Priority.NORMAL))) == 1


def test_while_paused_nobody_is_let_in_and_those_who_run_go_on() -> None:
    admission = Admission(parallel=2, kv_tokens=100)
    places = {"a": admission.arrive(10, asking(Priority.NORMAL))}
    admission.pause()
    places["b"] = admission.arrive(10, asking(Priority.NORMAL))
    assert _transcript(admission, places) == {"a": 0, "b": 1}
    admission.resume()
    assert _transcript(admission, places) == {"a": 0, "b": 0}


def test_what_could_never_fit_is_refused_rather_than_left_waiting() -> None:
    with pytest.raises(ValueError, match="never fits"):
        Admission(parallel=2, kv_tokens=100).arrive(101, asking(Priority.NORMAL))


def test_one_with_many_requests_leaves_places_that_become_free_to_one_who_holds_less() -> None:
    admission = Admission(parallel=4, kv_tokens=1000)
    ann = [admission.arrive(10, asking(Priority.NORMAL, "ann")) for _ in range(7)]
    bob = [admission.arrive(10, asking(Priority.NORMAL, "bob")) for _ in range(2)]
    assert [admission.position(place) for place in (*ann, *bob)] == [0, 0, 0, 0, 3, 4, 5, 1, 2]
    for place in ann[:2]:
        admission.leave(place)
    assert [admission.position(place) for place in (*bob, *ann[2:])] == [0, 0, 0, 0, 1, 2, 3]
    admission.leave(ann[2])
    assert admission.position(ann[4]) == 0, "nobody else waits"


def test_an_owner_of_twice_the_weight_gets_twice_the_places() -> None:
    admission = Admission(parallel=9, kv_tokens=10_000)
    first = [admission.arrive(10, asking(Priority.NORMAL)) for _ in range(9)]
    ann = [admission.arrive(10, asking(Priority.NORMAL, "ann", 2.0)) for _ in range(9)]
    bob = [admission.arrive(10, asking(Priority.NORMAL, "bob", 1.0)) for _ in range(9)]
    for place in first:
        admission.leave(place)
    running = [sum(admission.position(place) == 0 for place in places) for places in (ann, bob)]
    assert running == [6, 3]


def test_what_was_computed_counts_more_than_how_many_requests_it_was_for() -> None:
    admission = Admission(parallel=2, kv_tokens=100_000)
    ann, bob = (admission.arrive(10, asking(Priority.NORMAL, owner)) for owner in ("ann", "bob"))
    waiting = [admission.arrive(10, asking(Priority.NORMAL, owner)) for owner in ("ann", "ann", "bob", "bob")]
    admission.charge(bob, 5000)
    admission.charge(ann, 100)
    admission.leave(bob)
    admission.leave(ann)
    assert [admission.position(place) for place in waiting] == [0, 0, 1, 2]


def test_a_charge_is_what_a_request_has_cost_so_far_and_may_turn_out_lower() -> None:
    for last, positions in ((9000, [0, 1]), (10, [1, 0])):
        admission = Admission(parallel=2, kv_tokens=100_000)
        ann, bob = (admission.arrive(10, asking(Priority.NORMAL, owner)) for owner in ("ann", "bob"))
        waiting = [admission.arrive(10, asking(Priority.NORMAL, owner)) for owner in ("bob", "ann")]
        for cost in (9000, last):
            admission.charge(ann, cost)
        admission.charge(bob, 500)
        admission.leave(bob)
        assert [admission.position(place) for place in waiting] == positions


def test_what_nobody_waits_for_any_more_goes_to_the_end_of_the_line() -> None:
    admission = Admission(parallel=1, kv_tokens=100)
    runs = admission.arrive(10, asking(Priority.NORMAL))
    unread = GenerateRequest((0,), SamplingParams())
    first, second = admission.arrive(10, unread), admission.arrive(10, asking(Priority.NORMAL))
    assert admission.position(first) == 1
    unread.override.priority = Priority.BACKGROUND
    admission.leave(runs)
    assert (admission.position(second), admission.position(first)) == (0, 1)


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 100), st.sampled_from(Priority)) | st.integers(0, 20), max_size=60),
)
def test_reservations_never_exceed_the_cache_and_everybody_runs_in_the_end(
    parallel: int, script: list[tuple[int, Priority] | int]
) -> None:
    """A pair arrives; a number ends the request with that index among those there."""
    admission = Admission(parallel, kv_tokens=100)
    present: list[Place] = []
    for step in script:
        if isinstance(step, tuple):
            present.append(admission.arrive(step[0], asking(step[1])))
        elif present:
            admission.leave(present.pop(step % len(present)))
        running = [place for place in present if admission.position(place) == 0]
        assert sum(place.size for place in running) <= 100
        assert admission.running == len(running) <= parallel
        assert sorted(admission.position(place) for place in present if place not in running) == list(
            range(1, admission.waiting + 1)
        )
    while present:
        (*_, first) = sorted(present, key=admission.position, reverse=True)
        assert admission.position(first) == 0, "somebody runs as long as somebody is there"
        present.remove(first)
        admission.leave(first)
    assert (admission.running, admission.waiting) == (0, 0)


def writing(owner: str, priority: Priority = Priority.NORMAL, prompt: int = 1) -> GenerateRequest:
    return GenerateRequest((0,) * prompt, SamplingParams(), priority=priority, owner=owner)


def flood(admission: Admission, count: int, tokens: int = 10, cost: int = 0) -> list[Place]:
    """Requests of Ann's that can go on later; those that run have cost so much by now."""
    anns = [admission.arrive(tokens, writing("ann"), resumable=True) for _ in range(count)]
    for place in anns:
        if admission.position(place) == 0:
            admission.charge(place, cost)
    return anns


def running_of(admission: Admission, places: list[Place]) -> list[int]:
    """The indices of those that run."""
    return [index for index, place in enumerate(places) if admission.position(place) == 0]


@pytest.mark.parametrize("cost", [0, 5000])
def test_one_request_beside_fifty_of_somebody_else_runs_at_once_where_a_slot_is_to_spare(cost: int) -> None:
    admission = Admission(parallel=16, kv_tokens=10_000, slots=17)
    anns = flood(admission, 50, cost=cost)
    bob = admission.arrive(10, writing("bob"))
    assert admission.position(bob) == 0
    assert running_of(admission, anns) == list(range(15)), "the newest of those that ran gave way"
    assert (admission.running, admission.waiting) == (17, 35), "the slot of one that leaves is in use"
    assert admission.position(anns[15]) == 1, "it is the first of hers to go on"
    admission.vacate(anns[15])
    assert admission.running == 16
    admission.leave(bob)
    assert running_of(admission, anns) == list(range(16))


def test_without_a_slot_to_spare_it_runs_as_soon_as_the_one_that_gave_way_has_left_its_slot() -> None:
    admission = Admission(parallel=2, kv_tokens=1000)
    anns = flood(admission, 4)
    bob = admission.arrive(10, writing("bob"))
    assert (admission.position(bob), running_of(admission, anns)) == (1, [0])
    carl = admission.arrive(10, writing("carl"))
    assert running_of(admission, anns) == [0], "the last of hers leaves her no more than either of them has"
    admission.vacate(anns[1])
    assert (admission.position(bob), admission.position(carl)) == (0, 1)


def test_one_that_leaves_its_slot_does_not_go_on_before_it_has() -> None:
    admission = Admission(parallel=2, kv_tokens=1000, slots=4)
    anns = flood(admission, 2)
    admission.leave(admission.arrive(10, writing("bob")))
    assert running_of(admission, anns) == [0]
    admission.vacate(anns[1])
    assert running_of(admission, anns) == [0, 1]


def test_slots_to_spare_are_no_places() -> None:
    admission = Admission(parallel=2, kv_tokens=1000, slots=4)
    assert running_of(admission, flood(admission, 4)) == [0, 1]


def test_one_that_cannot_go_on_later_keeps_its_place_and_an_older_one_gives_way() -> None:
    admission = Admission(parallel=3, kv_tokens=1000, slots=4)
    (first,) = flood(admission, 1)
    others = [admission.arrive(10, request) for request in (writing("ann"), asking(Priority.NORMAL, "ann"))]
    bob = admission.arrive(10, writing("bob"))
    assert [admission.position(place) for place in (bob, *others, first)] == [0, 0, 0, 1]
    carl = admission.arrive(10, writing("carl"))
    assert [admission.position(place) for place in (bob, *others)] == [0, 0, 0]
    assert admission.position(carl) == 1


def test_nobody_gives_way_to_one_who_has_had_as_much() -> None:
    admission = Admission(parallel=2, kv_tokens=1000, slots=4)
    places = [admission.arrive(10, writing(owner), resumable=True) for owner in ("ann", "bob", "ann", "bob")]
    assert running_of(admission, places) == [0, 1]
    for tokens in range(0, 400, 7):
        for place in places[:2]:
            admission.charge(place, tokens)
    assert running_of(admission, places) == [0, 1]


def one_that_gave_way() -> tuple[Admission, Place]:
    """A request of Ann's that runs again, at a cost of 500, beside one that can't give way."""
    admission = Admission(parallel=2, kv_tokens=1000, slots=3)
    admission.arrive(10, writing("ann"))
    ann = admission.arrive(10, writing("ann"), resumable=True)
    admission.charge(ann, 500)
    bob = admission.arrive(10, writing("bob"))
    assert (admission.position(bob), admission.position(ann)) == (0, 1)
    admission.leave(bob)
    admission.vacate(ann)
    assert admission.position(ann) == 0
    return admission, ann


def test_one_that_goes_on_gets_further_before_it_gives_way_again() -> None:
    admission, ann = one_that_gave_way()
    bob = admission.arrive(10, writing("bob"))
    for tokens in range(500, 500 + MINIMUM_RUN):
        admission.charge(ann, tokens)
        assert admission.position(ann) == 0
    for tokens in range(500 + MINIMUM_RUN, 501 + MINIMUM_RUN + REVIEWED_TOKENS):
        admission.charge(ann, tokens)
    assert (admission.position(bob), admission.position(ann)) == (0, 1)


def test_what_had_to_be_computed_again_has_to_pay_off_first() -> None:
    admission, ann = one_that_gave_way()
    admission.recomputes(ann, 300)
    bob = admission.arrive(10, writing("bob"))
    admission.charge(ann, 799)
    assert admission.position(bob) == 1
    admission.charge(ann, 800)
    assert admission.position(bob) == 0


def test_with_one_place_owners_take_turns_of_some_length() -> None:
    admission = Admission(parallel=1, kv_tokens=1000, slots=2)
    places = [admission.arrive(10, writing(owner), resumable=True) for owner in ("ann", "bob")]
    turns: list[Place] = []
    for _ in range(2000):
        (runs,) = [place for place in places if admission.position(place) == 0]
        turns += [runs] * (not turns or turns[-1] is not runs)
        admission.charge(runs, runs.charged + 1)
        for place in places:
            if admission.position(place):
                admission.vacate(place)
    assert abs(places[0].charged - places[1].charged) <= 2 * QUANTUM
    assert 8 <= len(turns) <= 2000 // MINIMUM_RUN


def test_what_nobody_waits_for_gives_way_at_once_and_always_again() -> None:
    admission = Admission(parallel=1, kv_tokens=1000, slots=2)
    unread = admission.arrive(10, writing("ann", Priority.BACKGROUND), resumable=True)
    for _ in range(3):
        awaited = admission.arrive(10, writing("ann"))
        assert (admission.position(awaited), admission.position(unread)) == (0, 1)
        admission.leave(awaited)
        admission.vacate(unread)
        assert admission.position(unread) == 0


def test_one_that_nobody_waits_for_any_more_gives_way_to_those_who_wait() -> None:
    admission = Admission(parallel=1, kv_tokens=1000, slots=2)
    left = writing("ann")
    first, second = (admission.arrive(10, request, resumable=True) for request in (left, writing("ann")))
    left.override.priority = Priority.BACKGROUND
    for tokens in range(REVIEWED_TOKENS + 1):
        admission.charge(first, tokens)
    assert (admission.position(second), admission.position(first)) == (0, 1)


def test_an_urgent_request_takes_the_place_of_the_newest_that_is_not() -> None:
    admission = Admission(parallel=4, kv_tokens=1000, slots=8)
    anns = flood(admission, 4)
    urgent = [admission.arrive(10, writing("ann", Priority.INTERACTIVE)) for _ in range(4)]
    assert running_of(admission, anns) == [0], "urgent ones have three quarters of the places"
    assert [admission.position(place) for place in urgent] == [0, 0, 0, 4]


def test_urgent_requests_take_no_more_than_three_quarters_of_the_cache_from_others() -> None:
    admission = Admission(parallel=16, kv_tokens=100, slots=20)
    anns = flood(admission, 10)
    urgent = [admission.arrive(25, writing("ann", Priority.INTERACTIVE)) for _ in range(4)]
    for place in anns * 3:
        admission.vacate(place)
    assert [admission.position(place) == 0 for place in urgent] == [True, True, True, False]


def test_as_few_as_make_enough_room_give_way_and_a_reservation_counts_until_the_slot_is_left() -> None:
    admission = Admission(parallel=16, kv_tokens=1000, slots=20)
    anns = flood(admission, 10, tokens=100, cost=80)
    bob = admission.arrive(150, writing("bob"))
    assert running_of(admission, anns) == list(range(8))
    assert admission.position(bob) == 1, "each of the two may hold 100 tokens still"
    admission.vacate(anns[9])
    assert admission.position(bob) == 1
    admission.vacate(anns[8])
    assert admission.position(bob) == 0


def test_the_part_of_a_reservation_that_is_not_reached_any_more_is_free_at_once() -> None:
    admission = Admission(parallel=16, kv_tokens=10_000, slots=20)
    anns = flood(admission, 10, tokens=1000, cost=200)
    assert admission.position(admission.arrive(10_000 - 9000 - 201 - LEAVING_TOKENS, writing("bob"))) == 0
    assert running_of(admission, anns) == list(range(9))


def test_nobody_gives_way_where_that_makes_too_little_room() -> None:
    admission = Admission(parallel=16, kv_tokens=100, slots=20)
    anns = flood(admission, 3, tokens=20)
    fixed = admission.arrive(40, writing("ann"))
    bob = admission.arrive(90, writing("bob"))
    assert running_of(admission, [*anns, fixed]) == [0, 1, 2, 3]
    assert admission.position(bob) == 1


def test_one_that_was_cut_short_leaves_its_place_at_once_and_its_slot_later() -> None:
    admission = Admission(parallel=1, kv_tokens=1000, slots=2)
    first, second, third = (admission.arrive(10, writing("ann")) for _ in range(3))
    admission.cut_short(first)
    assert (admission.position(second), admission.position(third)) == (0, 1)
    admission.cut_short(second)
    assert (admission.position(third), admission.running) == (1, 2), "no slot is left"
    admission.leave(first)
    assert (admission.position(third), admission.running) == (0, 2)
    for place in (second, third):
        admission.leave(place)
    assert (admission.running, admission.waiting) == (0, 0)


def test_one_that_is_cut_short_while_it_waits_to_go_on_leaves_the_line() -> None:
    admission = Admission(parallel=1, kv_tokens=1000, slots=2)
    (ann,) = flood(admission, 1)
    bob = admission.arrive(10, writing("bob"))
    admission.cut_short(ann)
    assert (admission.running, admission.waiting) == (2, 0)
    admission.leave(ann)
    admission.leave(bob)
    assert (admission.running, admission.waiting) == (0, 0)


def test_while_paused_nobody_gives_way() -> None:
    admission = Admission(parallel=2, kv_tokens=1000, slots=3)
    anns = flood(admission, 2)
    admission.pause()
    bob = admission.arrive(10, writing("bob"))
    assert running_of(admission, anns) == [0, 1]
    admission.resume()
    assert admission.position(bob) == 0


Arrival = tuple[int, Priority, str, bool]
ARRIVALS = st.tuples(st.integers(1, 100), st.sampled_from(Priority), st.sampled_from(("ann", "bob")), st.booleans())
STEPS = ARRIVALS | st.tuples(st.sampled_from(("leave", "cut short", "charge", "vacate")), st.integers(0, 20))


def _play(admission: Admission, place: Place, what: str, tokens: int) -> None:
    match what:
        case "leave":
            admission.leave(place)
        case "cut short":
            admission.cut_short(place)
        case "charge":
            admission.charge(place, place.charged + tokens)
        case _:
            if admission.position(place):
                admission.vacate(place)


@given(st.integers(1, 4), st.integers(0, 2), st.lists(STEPS, max_size=60))
def test_whoever_gives_way_there_are_never_more_than_fit_and_everybody_ends(
    parallel: int, spare: int, script: list[Arrival | tuple[str, int]]
) -> None:
    admission = Admission(parallel, kv_tokens=100, slots=parallel + spare)
    present: list[Place] = []
    ended: list[Place] = []
    for step in script:
        if len(step) == 4:
            size, priority, owner, resumable = step
            present.append(admission.arrive(size, writing(owner, priority), resumable=resumable))
        elif present:
            what, index = step
            place = present[index % len(present)]
            _play(admission, place, what, 3 * index)
            if what in {"leave", "cut short"}:
                present.remove(place)
                ended.append(place)
        running = [place for place in present if admission.position(place) == 0]
        assert len(running) <= parallel
        assert admission.running <= parallel + spare
        assert sum(place.size for place in running) <= 100
        assert admission.waiting == len(present) - len(running)
    for place in ended:
        admission.leave(place)
    while present:
        for place in present:
            _play(admission, place, "vacate", 0)
        first = min(present, key=admission.position)
        assert admission.position(first) == 0, "somebody runs as long as somebody is there"
        present.remove(first)
        admission.leave(first)
    assert (admission.running, admission.waiting) == (0, 0)
