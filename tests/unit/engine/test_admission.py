"""Who runs and who waits, as transcripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.engine.admission import Admission, Place
from quern.engine.base import EmbedRequest, GenerateRequest, Priority
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
