"""Who runs and who waits, as transcripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.engine.admission import Admission, Place
from quern.engine.base import Priority


def _transcript(admission: Admission, names: dict[str, Place]) -> dict[str, int]:
    """Each name's position; 0 runs."""
    return {name: admission.position(place) for name, place in names.items()}


def test_requests_run_until_the_sequences_are_taken_then_wait_in_order() -> None:
    admission = Admission(parallel=2, kv_tokens=1000)
    places = {name: admission.arrive(10, Priority.NORMAL) for name in "abcd"}
    assert _transcript(admission, places) == {"a": 0, "b": 0, "c": 1, "d": 2}
    admission.leave(places.pop("a"))
    assert _transcript(admission, places) == {"b": 0, "c": 0, "d": 1}
    assert (admission.running, admission.waiting) == (2, 1)


def test_a_higher_priority_goes_to_the_front_but_interrupts_nobody() -> None:
    admission = Admission(parallel=1, kv_tokens=1000)
    places = {
        "runs": admission.arrive(10, Priority.BACKGROUND),
        "background": admission.arrive(10, Priority.BACKGROUND),
        "normal": admission.arrive(10, Priority.NORMAL),
        "later normal": admission.arrive(10, Priority.NORMAL),
        "interactive": admission.arrive(10, Priority.INTERACTIVE),
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
    places = {"large": admission.arrive(80, Priority.NORMAL), "second": admission.arrive(30, Priority.NORMAL)}
    assert _transcript(admission, places) == {"large": 0, "second": 1}
    admission.leave(places.pop("large"))
    assert _transcript(admission, places) == {"second": 0}


def test_small_requests_do_not_overtake_a_large_one_that_waits_for_room() -> None:
    admission = Admission(parallel=4, kv_tokens=100)
    places = {
        "runs": admission.arrive(60, Priority.NORMAL),
        "large": admission.arrive(90, Priority.NORMAL),
        "small": admission.arrive(10, Priority.NORMAL),
    }
    assert _transcript(admission, places) == {"runs": 0, "large": 1, "small": 2}
    admission.leave(places.pop("runs"))
    assert _transcript(admission, places) == {"large": 0, "small": 0}


def test_leaving_the_line_moves_everyone_behind_up() -> None:
    admission = Admission(parallel=1, kv_tokens=100)
    places = {name: admission.arrive(10, Priority.NORMAL) for name in "abcd"}
    admission.leave(places.pop("b"))
    assert _transcript(admission, places) == {"a": 0, "c": 1, "d": 2}


def test_when_the_first_in_line_leaves_those_who_fit_go_on() -> None:
    admission = Admission(parallel=4, kv_tokens=100)
    places = {
        "runs": admission.arrive(60, Priority.NORMAL),
        "large": admission.arrive(90, Priority.NORMAL),
        "small": admission.arrive(10, Priority.NORMAL),
    }
    admission.leave(places.pop("large"))
    assert _transcript(admission, places) == {"runs": 0, "small": 0}


def test_leaving_twice_frees_a_reservation_once() -> None:
    admission = Admission(parallel=4, kv_tokens=100)
    place = admission.arrive(100, Priority.NORMAL)
    admission.leave(place)
    admission.leave(place)
    assert admission.position(admission.arrive(100, Priority.NORMAL)) == 0
    assert admission.position(admission.arrive(1, Priority.NORMAL)) == 1


def test_while_paused_nobody_is_let_in_and_those_who_run_go_on() -> None:
    admission = Admission(parallel=2, kv_tokens=100)
    places = {"a": admission.arrive(10, Priority.NORMAL)}
    admission.pause()
    places["b"] = admission.arrive(10, Priority.NORMAL)
    assert _transcript(admission, places) == {"a": 0, "b": 1}
    admission.resume()
    assert _transcript(admission, places) == {"a": 0, "b": 0}


def test_what_could_never_fit_is_refused_rather_than_left_waiting() -> None:
    with pytest.raises(ValueError, match="never fits"):
        Admission(parallel=2, kv_tokens=100).arrive(101, Priority.NORMAL)


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
            present.append(admission.arrive(*step))
        elif present:
            admission.leave(present.pop(step % len(present)))
        running = [place for place in present if admission.position(place) == 0]
        assert sum(place.tokens for place in running) <= 100
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
