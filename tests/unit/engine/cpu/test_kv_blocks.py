"""KV blocks change hands and none is ever lost or shared by mistake."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quern.engine.cpu.kv_blocks import MOST_TAGS, BlockPool, PrefixChain

SIZE = 2
COUNT = 6


def digests(tokens: list[int], salt: str = "") -> list[bytes]:
    chain = PrefixChain(salt, SIZE)
    chain.extend(tokens)
    return chain.digests


def filled(pool: BlockPool, tokens: list[int], salt: str = "", tag: str = "") -> list[int]:
    """Held, published blocks for `tokens`."""
    known = digests(tokens, salt)
    return [pool.publish(block, digest, tag) for block, digest in zip(pool.allocate(len(known)), known, strict=True)]


def test_only_full_blocks_have_a_digest_and_it_does_not_matter_how_they_filled() -> None:
    chain = PrefixChain("", SIZE)
    for length in range(6):
        chain.extend([1, 2, 3, 4, 5][:length])
        assert len(chain.digests) == length // SIZE
    assert chain.digests == digests([1, 2, 3, 4])


def test_a_digest_tells_apart_what_came_before_and_under_which_salt() -> None:
    prefixes = [digests([1, 2, 3, 4]), digests([9, 2, 3, 4]), digests([1, 2, 3, 4], "alice"), digests([3, 4])]
    assert len({known[-1] for known in prefixes}) == 4


def test_a_released_prefix_is_found_again_block_for_block() -> None:
    pool = BlockPool(COUNT)
    blocks = filled(pool, [1, 2, 3, 4])
    pool.release(blocks)
    assert pool.available == COUNT
    assert pool.match(digests([1, 2, 3, 4, 5, 6])) == blocks
    assert pool.match(digests([1, 2, 9, 9])) == blocks[:1]
    assert pool.match(digests([1, 2, 3, 4], "mallory")) == []


def test_free_blocks_go_before_known_ones_and_of_those_the_least_recently_used() -> None:
    pool = BlockPool(COUNT)
    for tokens in ([1, 1, 1, 1], [2, 2, 2, 2]):
        pool.release(filled(pool, tokens))
    touched = pool.match(digests([1, 1, 1, 1]))
    pool.hold(touched)
    pool.release(touched)
    pool.allocate(2)
    assert len(pool.match(digests([1, 1, 1, 1]))) == len(pool.match(digests([2, 2, 2, 2]))) == 2
    pool.allocate(1)
    assert len(pool.match(digests([2, 2, 2, 2]))) == 1, "the last block of the older prefix goes first"
    pool.allocate(2)
    assert len(pool.match(digests([2, 2, 2, 2]))) == 0
    assert len(pool.match(digests([1, 1, 1, 1]))) == 1


def test_content_that_is_known_already_is_kept_once() -> None:
    pool = BlockPool(COUNT)
    first, second = filled(pool, [1, 2, 3, 4]), filled(pool, [1, 2, 3, 4])
    assert first == second
    assert pool.available == COUNT - 2
    pool.release(first)
    assert pool.available == COUNT - 2
    pool.release(second)
    assert pool.available == COUNT


def test_what_was_computed_for_one_alone_is_forgotten_with_it() -> None:
    pool = BlockPool(COUNT)
    for tokens, tag in (([1, 2, 3, 4], "ann"), ([1, 2, 5, 6], "bob")):
        pool.release(filled(pool, tokens, tag=tag))
    assert pool.usage.cached == 3
    pool.forget({"ann"})
    assert len(pool.match(digests([1, 2, 3, 4]))) == 1, "what bob's begins with too stays"
    assert len(pool.match(digests([1, 2, 5, 6]))) == 2
    pool.forget({"bob", "nobody"})
    assert pool.match(digests([1, 2])) == []
    assert (pool.usage.cached, pool.available) == (0, COUNT)


def test_what_is_held_while_it_is_forgotten_is_free_once_it_is_released() -> None:
    pool = BlockPool(COUNT)
    blocks = filled(pool, [1, 2, 3, 4], tag="ann")
    pool.forget({"ann"})
    assert pool.match(digests([1, 2, 3, 4])) == []
    pool.release(blocks)
    assert (pool.usage.cached, pool.usage.free) == (0, COUNT)


def test_what_has_no_tag_and_what_very_many_begin_with_stays() -> None:
    pool = BlockPool(COUNT)
    pool.release(filled(pool, [1, 2]))
    many = [f"conversation {number}" for number in range(MOST_TAGS + 1)]
    for tag in many:
        pool.release(filled(pool, [3, 4], tag=tag))
    pool.forget({*many, ""})
    assert pool.match(digests([1, 2]))
    assert pool.match(digests([3, 4]))
    assert pool.allocate(COUNT), "until its room is needed"


def test_more_blocks_than_there_are_cant_be_had() -> None:
    pool = BlockPool(COUNT)
    pool.allocate(COUNT - 1)
    with pytest.raises(ValueError, match="2 blocks were asked for and 1 are available"):
        pool.allocate(2)
    assert pool.available == 1


# One integer each: the fewer things are drawn, the more steps are made in a second.
TOKENS = st.integers(2, 511).map(lambda number: [int(bit) for bit in f"{number:b}"[1:]])
SOME = st.integers(0, 2**COUNT - 1).map(lambda number: {index for index in range(COUNT) if number >> index & 1})


class Pool(RuleBasedStateMachine):
    """Sequences come, fill their blocks and go, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(COUNT)
        self.held: list[list[int]] = []
        self.tags: list[str] = []
        self.used: dict[bytes, set[str]] = {}
        self.contents: dict[int, bytes] = {}
        self.prefixes: dict[bytes, list[bytes]] = {}

    @rule(tokens=TOKENS, salt=st.sampled_from(["", "alice"]), tag=st.sampled_from(["", "one", "two"]))
    def come(self, tokens: list[int], salt: str, tag: str) -> None:
        wanted = digests(tokens, salt)
        blocks = self.pool.match(wanted)
        assert [self.contents[block] for block in blocks] == wanted[: len(blocks)], "a block holds something else"
        self.pool.hold(blocks, tag)
        for digest in wanted[: len(blocks)]:
            self.used[digest].add(tag)
        missing = -(-len(tokens) // SIZE) - len(blocks)
        if missing > self.pool.available:
            self.pool.release(blocks)
            return
        cached = len(blocks)
        blocks += self.pool.allocate(missing)
        for block in blocks[cached:]:
            assert all(block not in other for other in self.held), "a held block was given away"
            self.contents.pop(block, None)
        for index in range(cached, len(wanted)):
            self.contents.setdefault(blocks[index], wanted[index])
            if not self.pool.match(wanted[index : index + 1]):
                self.used[wanted[index]] = set()
            self.used[wanted[index]].add(tag)
            blocks[index] = self.pool.publish(blocks[index], wanted[index], tag)
            assert self.contents[blocks[index]] == wanted[index]
        self.held.append(blocks)
        self.tags.append(tag)
        self.prefixes |= {digest: wanted[: index + 1] for index, digest in enumerate(wanted)}

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, COUNT))
    def go(self, number: int) -> None:
        self.tags.pop(number % len(self.held))
        self.pool.release(self.held.pop(number % len(self.held)))

    @rule(tag=st.sampled_from(["one", "two", "three"]))
    def forget(self, tag: str) -> None:
        if tag in self.tags:
            return  # its turns have ended, where something is deleted
        known = [digest for digest in self.used if self.pool.match([digest])]
        self.pool.forget({tag})
        for digest in known:
            self.used[digest].discard(tag)
            assert bool(self.pool.match([digest])) == bool(self.used[digest])

    @rule(some=SOME, tokens=TOKENS)
    def give_way(self, some: set[int], tokens: list[int]) -> None:
        leaving = {index for index in some if index < len(self.held)}
        keeping = self.pool.match(digests(tokens))
        expected = self.pool.available_without([self.held[index] for index in leaving], keeping=keeping)
        for index in sorted(leaving, reverse=True):
            self.tags.pop(index)
            self.pool.release(self.held.pop(index))
        self.pool.hold(keeping)
        for digest in digests(tokens)[: len(keeping)]:
            self.used[digest].add("")
        self.held.append(keeping)
        self.tags.append("")
        assert self.pool.available == expected

    @invariant()
    def the_counts_add_up(self) -> None:
        assert self.pool.available == COUNT - len(Counter(block for blocks in self.held for block in blocks))

    @invariant()
    def a_block_is_never_known_without_those_before_it(self) -> None:
        for digest in self.contents.values():
            if self.pool.match([digest]):
                prefix = self.prefixes[digest]
                assert len(self.pool.match(prefix)) == len(prefix)


TestPool = Pool.TestCase
