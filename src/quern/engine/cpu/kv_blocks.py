"""Which block of the KV cache belongs to whom: pure bookkeeping, no tensor is touched here.

A block holds the keys and values of `block_tokens` consecutive tokens. Those depend on every token before them too, so
a full block is published under a digest of everything from the sequence's first token on; any later sequence that
begins with the same tokens under the same salt then holds the very same block. A published block that nobody holds
stays until its room is needed, or until all of those are forgotten that it was computed for.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence, Set

from quern.types import KvUsage

DIGEST_BYTES = 32
ROOT = b"quern prefix"  # keeps digests of salts apart from those of blocks
MOST_TAGS = 16
"""What more than so many begin with belongs to everybody."""
EVERYBODY = ""


class PrefixChain:
    """The digests of one sequence's full blocks, computed once each: of the digest before and of the block's ids.

    The salt stands before the first block, so equal tokens under different salts have nothing in common. The digest is
    a cryptographic one: whoever could build two prefixes with one digest could read another's answers.
    """

    def __init__(self, salt: str, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._last = hashlib.blake2b(salt.encode(), digest_size=DIGEST_BYTES, person=ROOT).digest()
        self.digests: list[bytes] = []

    def extend(self, tokens: Sequence[int]) -> None:
        """Add the blocks that are full now. `tokens`: all of the sequence's tokens, from the first one on."""
        size = self._block_tokens
        for end in range((len(self.digests) + 1) * size, len(tokens) + 1, size):
            ids = array("I", tokens[end - size : end]).tobytes()
            self._last = hashlib.blake2b(self._last + ids, digest_size=DIGEST_BYTES).digest()
            self.digests.append(self._last)


class BlockPool:
    """`count` blocks: each one is free, or held by one or more sequences, or idle: published and held by nobody. A
    published block has the tags of all that used it; what comes after it in a sequence has no others.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._holders = [0] * count
        self._published: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._tags: dict[int, set[str]] = {}

    @property
    def available(self) -> int:
        """Blocks that `allocate` could give."""
        return len(self._free) + len(self._idle)

    @property
    def usage(self) -> KvUsage:
        """What the blocks hold."""
        free, cached = len(self._free), len(self._idle)
        return KvUsage(self.count - free - cached, cached, free)

    def available_without(self, holders: Iterable[Sequence[int]], *, keeping: Iterable[int]) -> int:
        """Blocks that `allocate` could give if these holders released theirs, and somebody held `keeping` before."""
        released = Counter(block for blocks in holders for block in blocks)
        freed = {block for block, count in released.items() if count == self._holders[block]}
        kept = set(keeping)
        idle = sum(self._holders[block] == 0 for block in kept)
        return self.available - idle + len(freed - kept)

    def match(self, digests: Iterable[bytes]) -> list[int]:
        """The published blocks of the longest known prefix; hold them before anything is allocated."""
        blocks: list[int] = []
        for digest in digests:
            block = self._published.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def hold(self, blocks: Iterable[int], tag: str = EVERYBODY) -> None:
        """Become one more holder of published blocks."""
        for block in blocks:
            self._holders[block] += 1
            self._idle.pop(block, None)
            tags = self._tags[block]
            tags.add(tag if len(tags) < MOST_TAGS else EVERYBODY)

    def allocate(self, count: int) -> list[int]:
        """Blocks with nothing in them, held once. Idle ones are given away only where no free ones are left.

        Raises ValueError where fewer are available.
        """
        if count > self.available:
            msg = f"{count} blocks were asked for and {self.available} are available"
            raise ValueError(msg)
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in blocks:
            self._holders[block] = 1
        return blocks

    def publish(self, block: int, digest: bytes, tag: str = EVERYBODY) -> int:
        """Make a full block known. Returns the block that its holder holds from now on.

        That is another one where the same content was published already: two sequences that began with the same prompt
        in the same moment then share it from here on, and the copy is free.
        """
        known = self._published.get(digest)
        if known is None:
            self._published[digest] = block
            self._digests[block] = digest
            self._tags[block] = {tag}
            return block
        self.hold([known], tag)
        self.release([block])
        return known

    def release(self, blocks: Sequence[int]) -> None:
        """Stop holding a sequence's blocks, given from its first one on.

        The last block becomes idle first and so is given away first: a block is never known while one before it in the
        sequence is not.
        """
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._digests:
                self._idle[block] = None
            else:
                self._free.append(block)

    def forget(self, tags: Set[str]) -> None:
        """Free the idle blocks that were computed for these tags and for no others; held ones once they are released.
        What everybody uses stays.
        """
        unwanted = tags - {EVERYBODY}
        for block, users in [*self._tags.items()]:
            users.difference_update(unwanted)
            if users:
                continue
            self._unpublish(block)
            if block in self._idle:
                del self._idle[block]
                self._free.append(block)

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        self._unpublish(block)
        return block

    def _unpublish(self, block: int) -> None:
        del self._published[self._digests.pop(block)]
        del self._tags[block]
