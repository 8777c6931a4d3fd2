"""The blocks that sequences hold: from the prefix cache, new ones, and those that become known as they fill."""

from __future__ import annotations

from collections.abc import Sequence, Set

from quern.engine.cpu.kv_blocks import BlockPool
from quern.engine.cpu.sequence import SequenceState
from quern.types import KvUsage


class SequenceBlocks:
    """`count` KV blocks of `block_tokens` tokens, given to sequences."""

    def __init__(self, count: int, block_tokens: int) -> None:
        self.count = count
        self._block_tokens = block_tokens
        self._pool = BlockPool(count)

    @property
    def usage(self) -> KvUsage:
        """What the blocks hold."""
        return self._pool.usage

    def have_room(self, sequence: SequenceState, *, running: int, without: Sequence[SequenceState] = ()) -> bool:
        """Whether there would be blocks for all of its tokens if those `without` gave theirs back.

        A block for each of the `running` others must be left over: without that a newcomer would soon be the one to be
        preempted.
        """
        sequence.chain.extend(sequence.tokens)
        cached = self._cached(sequence)
        missing = self.needed(sequence) - len(cached)
        return missing + running <= self._pool.available_without([other.blocks for other in without], keeping=cached)

    def give(self, sequence: SequenceState) -> int:
        """Blocks for all of its tokens, as many as possible from the cache; how many tokens those hold."""
        cached = self._cached(sequence)
        self._pool.hold(cached, sequence.request.cache_tag)
        sequence.blocks = cached + self._pool.allocate(self.needed(sequence) - len(cached))
        sequence.published = len(cached)
        return len(cached) * self._block_tokens

    def lack(self, sequence: SequenceState) -> bool:
        """Whether its next token needs one more block."""
        return self.needed(sequence) > len(sequence.blocks)

    def extend(self, sequence: SequenceState) -> bool:
        """Give it one more block; False where none is left."""
        if not self._pool.available:
            return False
        sequence.blocks += self._pool.allocate(1)
        return True

    def release(self, sequence: SequenceState) -> None:
        """Take back what it holds; what was published is known until its room is needed."""
        self._pool.release(sequence.blocks)
        sequence.blocks = []

    def publish(self, sequence: SequenceState) -> None:
        """Make the blocks known that became full: answers too, for they are the history of the next turn."""
        sequence.chain.extend(sequence.tokens)
        for index in range(sequence.published, sequence.computed // self._block_tokens):
            digest = sequence.chain.digests[index]
            sequence.blocks[index] = self._pool.publish(sequence.blocks[index], digest, sequence.request.cache_tag)
            sequence.published = index + 1

    def forget(self, tags: Set[str]) -> None:
        """Forget what was computed for these tags alone."""
        self._pool.forget(tags)

    def needed(self, sequence: SequenceState) -> int:
        """How many blocks its tokens take."""
        return -(-len(sequence.tokens) // self._block_tokens)

    def _cached(self, sequence: SequenceState) -> list[int]:
        """What is known of its prefix. The last token is always computed, or there would be nothing to draw from."""
        return self._pool.match(sequence.chain.digests[: (len(sequence.tokens) - 1) // self._block_tokens])
