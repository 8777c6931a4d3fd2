"""Which slot takes which request: pure bookkeeping of what each slot's KV cache holds and for whom.

A slot is one sequence of the engine and keeps its cache when a request has ended, so that a conversation's next turn
only evaluates what is new. A cache is never reused under another salt: nobody can time another's prompt.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

COMPARED_AT_ONCE = 512


def with_spare(parallel: int) -> int:
    """Slots for so many sequences at once: with some to spare, a newcomer need not wait until one that has to give way
    has left its slot, and that keeps its cache until it goes on.
    """
    return parallel + max(1, parallel // 4)


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot taken for one request. `reusable` tokens of its prompt are in the slot's cache; 0: reuse nothing."""

    index: int
    reusable: int


@dataclass(slots=True)
class _Slot:
    salt: str = ""
    ids: tuple[int, ...] = ()
    busy: bool = False
    last_used: int = 0
    tag: str = ""
    forgotten: bool = False


class SlotTable:
    """The engine's slots, free and taken."""

    def __init__(self, count: int) -> None:
        self._slots = [_Slot() for _ in range(count)]
        self._clock = 0

    def take(self, salt: str, prompt: tuple[int, ...], tag: str = "") -> Lease:
        """Take a free slot for a prompt; `tag`: by which its cache is forgotten. Raises LookupError when every slot is
        taken.

        A slot is taken for its cache only where that gives more tokens than it destroys, or another conversation's
        cache would be lost for a common first line while empty slots are left. Else an empty slot, else the one that
        was used least recently.
        """
        free = [index for index, slot in enumerate(self._slots) if not slot.busy]
        if not free:
            msg = "every slot is taken"
            raise LookupError(msg)
        common = {index: self._common(index, salt, prompt) for index in free}
        best = max(free, key=lambda index: (common[index], -self._destroyed(index, common[index])))
        if common[best] <= self._destroyed(best, common[best]):
            best = min(free, key=lambda index: (bool(self._slots[index].ids), self._slots[index].last_used))
        self._slots[best].busy, self._slots[best].tag = True, tag
        return Lease(best, min(common[best], len(prompt) - 1))

    def give_back(self, lease: Lease, salt: str, ids: tuple[int, ...]) -> None:
        """Free a slot whose cache now holds `ids`."""
        self._clock += 1
        before = self._slots[lease.index]
        known = () if before.forgotten else ids
        self._slots[lease.index] = _Slot(salt, known, last_used=self._clock, tag=before.tag)

    def forget(self, tags: Set[str]) -> None:
        """Reuse nothing any more of what was cached for these tags, also of what runs yet."""
        for slot in self._slots:
            if slot.tag and slot.tag in tags:
                slot.ids, slot.forgotten = (), slot.busy

    def _common(self, index: int, salt: str, prompt: tuple[int, ...]) -> int:
        slot = self._slots[index]
        return common_prefix(slot.ids, prompt) if slot.salt == salt else 0

    def _destroyed(self, index: int, common: int) -> int:
        return len(self._slots[index].ids) - common


def common_prefix(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Length of the longest common prefix; long prompts are compared in blocks, at C speed."""
    shorter = min(len(one), len(other))
    start = 0
    while start < shorter and one[start : start + COMPARED_AT_ONCE] == other[start : start + COMPARED_AT_ONCE]:
        start += COMPARED_AT_ONCE
    for position in range(start, min(start + COMPARED_AT_ONCE, shorter)):
        if one[position] != other[position]:
            return position
    return shorter
