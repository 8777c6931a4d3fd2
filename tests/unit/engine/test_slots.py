"""Which slot takes which request, as transcripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.engine.slots import COMPARED_AT_ONCE, Lease, SlotTable, common_prefix


def _ids(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def _serve(slots: SlotTable, prompt: str, answer: str = "", salt: str = "") -> Lease:
    lease = slots.take(salt, _ids(prompt))
    slots.give_back(lease, salt, _ids(prompt + answer))
    return lease


def test_a_conversations_next_turn_gets_its_slot_and_reuses_its_history() -> None:
    slots = SlotTable(4)
    first = _serve(slots, "system hello", " answer")
    _serve(slots, "something else")
    assert slots.take("", _ids("system hello answer and then")) == Lease(first.index, len("system hello answer"))


def test_another_conversation_takes_an_empty_slot_rather_than_destroy_a_cache_for_a_common_first_line() -> None:
    slots = SlotTable(4)
    first = _serve(slots, "system: first question", " and a long answer")
    second = slots.take("", _ids("system: second question"))
    assert second == Lease(second.index, 0)
    assert second.index != first.index


def test_a_prefix_that_gives_more_than_it_destroys_is_taken() -> None:
    slots = SlotTable(4)
    first = _serve(slots, "a very long shared instruction, then this")
    assert slots.take("", _ids("a very long shared instruction, then that")) == Lease(
        first.index, len("a very long shared instruction, then th")
    )


def test_the_longest_of_several_prefixes_wins() -> None:
    slots = SlotTable(4)
    _serve(slots, "one two")
    longest = _serve(slots, "one two", " three")
    assert slots.take("", _ids("one two three four")).index == longest.index


def test_the_least_recently_used_slot_goes_first_when_none_is_empty() -> None:
    slots = SlotTable(3)
    used = [_serve(slots, text) for text in ("aaaa", "bbbb", "cccc")]
    assert sorted(lease.index for lease in used) == [0, 1, 2]
    assert _serve(slots, "aaaa").index == used[0].index
    assert slots.take("", _ids("dddd")).index == used[1].index


def test_what_was_forgotten_is_not_reused_and_other_caches_are() -> None:
    slots = SlotTable(3)
    for text in ("ann's long prompt", "bob's long prompt"):
        slots.give_back(slots.take("", _ids(text), text[:3]), "", _ids(text))
    slots.forget({"ann", "nobody"})
    assert slots.take("", _ids("ann's long prompt, again")).reusable == 0
    assert slots.take("", _ids("bob's long prompt, again")).reusable == len("bob's long prompt")


def test_what_still_runs_when_it_is_forgotten_is_not_reused_later() -> None:
    slots = SlotTable(1)
    lease = slots.take("", _ids("a prompt"), "ann")
    slots.forget({"ann"})
    slots.give_back(lease, "", _ids("a prompt and its answer"))
    assert _serve(slots, "a prompt and its answer").reusable == 0
    assert _serve(slots, "a prompt and its answer").reusable > 0, "the next one's is its own"


def test_busy_slots_are_never_taken_not_even_for_their_cache() -> None:
    slots = SlotTable(2)
    taken = _serve(slots, "hello", " world")
    assert slots.take("", _ids("hello world again")).index == taken.index
    other = slots.take("", _ids("hello world again"))
    assert other.index != taken.index
    assert other.reusable == 0
    with pytest.raises(LookupError):
        slots.take("", _ids("third"))


def test_nothing_is_reused_under_another_salt_even_in_the_same_slot() -> None:
    slots = SlotTable(1)
    _serve(slots, "a secret prompt", salt="alice")
    assert _serve(slots, "a secret prompt", salt="mallory").reusable == 0
    assert slots.take("alice", _ids("a secret prompt")).reusable == 0, "mallory's request has replaced the cache"


def test_at_least_one_token_of_a_prompt_is_always_evaluated() -> None:
    slots = SlotTable(1)
    _serve(slots, "same prompt")
    assert slots.take("", _ids("same prompt")).reusable == len("same prompt") - 1


def test_a_request_that_never_reached_the_slot_leaves_nothing_to_reuse() -> None:
    slots = SlotTable(1)
    _serve(slots, "hello", salt="alice")
    slots.give_back(slots.take("bob", _ids("hello")), "bob", ())
    assert slots.take("bob", _ids("hello")).reusable == 0


@given(st.integers(0, 3 * COMPARED_AT_ONCE), st.integers(0, 40), st.integers(0, 40))
def test_the_common_prefix_is_exact_at_every_length(common: int, rest: int, other_rest: int) -> None:
    shared = tuple(range(common))
    assert common_prefix(shared + (-1,) * rest, shared + (-2,) * other_rest) == common
