"""Whose prompt tokens a step computes, as tables."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.engine.base import GenerateRequest, Priority
from quern.engine.cpu.kv_blocks import PrefixChain
from quern.engine.cpu.sequence import SequenceState
from quern.engine.cpu.step_budget import ALONE, Budget, divide
from quern.engine.fair_shares import FairShares
from quern.sampling import SamplingParams


def sequence(key: int, pending: int, priority: Priority = Priority.NORMAL) -> SequenceState:
    request = GenerateRequest((0,) * pending, SamplingParams(), priority=priority)
    return SequenceState(key, request, object(), 0.0, PrefixChain("", 4))


def _shares(prompts: Iterable[SequenceState]) -> FairShares:
    """All of them run."""
    shares = FairShares(16)
    for prompt in prompts:
        shares.arrive(prompt.claim)
        shares.start(prompt.claim)
    return shares


def shares(tokens: int, *prompts: SequenceState) -> list[int]:
    counts = {part.sequence.key: part.count for part in divide(tokens, prompts, _shares(prompts))}
    return [counts.get(prompt.key, 0) for prompt in prompts]


def test_a_step_takes_more_while_nobody_writes() -> None:
    assert Budget(64).tokens(writing=True) == 64
    assert Budget(64).tokens(writing=False) == 64 * ALONE


@pytest.mark.parametrize(
    ("pending", "counts"),
    [
        ([1000], [64]),
        ([10], [10]),
        ([1000, 1000], [64, 0]),
        ([900, 1000], [64, 0]),
        ([1000, 900], [32, 32]),
        ([30000, 20], [44, 20]),
        ([30000, 20, 5, 30], [32, 20, 5, 7]),
        ([10, 20, 30, 40], [10, 20, 30, 4]),
    ],
)
def test_half_is_the_firsts_and_half_the_shortests_and_nothing_is_left_unused(
    pending: list[int], counts: list[int]
) -> None:
    assert shares(64, *(sequence(key, tokens) for key, tokens in enumerate(pending))) == counts


def test_a_lower_priority_gets_what_the_higher_one_leaves() -> None:
    background = sequence(1, 10, Priority.BACKGROUND)
    assert shares(64, background, sequence(2, 1000, Priority.INTERACTIVE)) == [0, 64]
    assert shares(64, background, sequence(2, 60, Priority.INTERACTIVE)) == [4, 60]


@given(
    tokens=st.integers(2, 100),
    prompts=st.lists(st.tuples(st.integers(2, 200), st.sampled_from(Priority)), min_size=1, max_size=6),
)
def test_every_token_of_the_budget_that_somebody_needs_is_used_and_the_first_always_goes_on(
    tokens: int, prompts: list[tuple[int, Priority]]
) -> None:
    sequences = [sequence(key, pending, priority) for key, (pending, priority) in enumerate(prompts)]
    counts = shares(tokens, *sequences)
    assert sum(counts) == min(tokens, sum(pending for pending, _ in prompts))
    assert all(count <= pending for count, (pending, _) in zip(counts, prompts, strict=True))
    first = min(sequences, key=lambda sequence: sequence.order)
    assert counts[first.key] >= min(first.pending, tokens // 2)
