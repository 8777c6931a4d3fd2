"""Digests of prompts' blocks, with a salt."""

from __future__ import annotations

from quern.engine.transformers.child.prefixes import salted_digest


def test_equal_blocks_under_one_salt_have_one_digest_and_under_two_have_two() -> None:
    assert salted_digest("a", None, [1, 2]) == salted_digest("a", None, [1, 2])
    assert salted_digest("a", None, [1, 2]) != salted_digest("b", None, [1, 2])


def test_a_digest_is_of_all_that_is_before() -> None:
    first, other = salted_digest("a", None, [1, 2]), salted_digest("a", None, [1, 3])
    assert salted_digest("a", first, [4]) != salted_digest("a", other, [4])
    assert salted_digest("a", first, [4]) != salted_digest("a", None, [4])
