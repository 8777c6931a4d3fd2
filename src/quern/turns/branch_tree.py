"""A conversation as a tree: where its branches leave each other, and which one passes through what."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from quern.records import Branch, Fork, StoredItem, TurnRecord
from quern.turns.identity import is_derived

BEFORE_ALL = -1


@dataclass(frozen=True, slots=True)
class Sibling:
    """One way to go on from a place: what comes first in it. `said`: None where only an answer follows; `answer`: what
    the turn answered, `turn`: None for what was put there without one. `shown`: it is on the path to the head.
    """

    branch: int
    turn: TurnRecord | None
    said: StoredItem | None
    answer: StoredItem | None
    shown: bool


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """A place from which a conversation goes on in more than one way: after an item; None is its beginning."""

    after: StoredItem | None
    siblings: tuple[Sibling, ...]


class BranchTree:
    """All of a conversation. `items` are in order, as `turns` are; `branches` lack the first one, as in the store."""

    def __init__(
        self, branches: Sequence[Branch], items: Sequence[StoredItem], turns: Sequence[TurnRecord], head: int
    ) -> None:
        self._begins = {branch.number: branch.fork for branch in branches}
        self._items: dict[int, list[StoredItem]] = {0: [], **{number: [] for number in self._begins}}
        for item in items:
            self._items[item.branch].append(item)
        self._positions = {number: [item.position for item in of_it] for number, of_it in self._items.items()}
        self._turns = {turn.id: turn for turn in turns}
        self._branch_turns: dict[int, TurnRecord] = {}
        for turn in turns:
            self._branch_turns.setdefault(turn.branch, turn)
        self._shown = dict(self.path(head))
        self.head = head

    def path(self, branch: int) -> list[tuple[int, int | None]]:
        """The branches from one back to the first, each with the position up to which the path has it (None: all)."""
        path: list[tuple[int, int | None]] = [(branch, None)]
        while branch in self._begins:
            fork = self._begins[branch]
            path.append((fork.parent, fork.after))
            branch = fork.parent
        return path

    def through(self, branch: int, position: int) -> int:
        """The branch to show so that a place is seen: the head where it passes there, else the one that was written
        last of those that do.
        """
        if branch in self._shown:
            up_to = self._shown[branch]
            if up_to is None or position <= up_to:
                return self.head
        passing = [branch]
        for number in sorted(self._begins):
            fork = self._begins[number]
            if fork.parent in passing and (fork.parent != branch or position <= fork.after):
                passing.append(number)
        return max(passing, key=lambda number: (max(self._positions[number], default=BEFORE_ALL), number))

    def item(self, item_id: str) -> StoredItem | None:
        """An item of any branch."""
        return next((item for of_it in self._items.values() for item in of_it if item.id == item_id), None)

    def end_of_turn(self, item: StoredItem) -> int:
        """The last position of the turn of an item; its own where it was put there without one."""
        if item.turn_id is None:
            return item.position
        return max(one.position for one in self._items[item.branch] if one.turn_id == item.turn_id)

    def place_of_item(self, item_id: str) -> tuple[int, int] | None:
        """The branch and the position of an item."""
        item = self.item(item_id)
        return (item.branch, item.position) if item is not None else None

    def place_of_turn(self, turn_id: str) -> tuple[int, int] | None:
        """The branch and the last position of a turn."""
        turn = self._turns.get(turn_id)
        if turn is None:
            return None
        of_turn = [item.position for item in self._items[turn.branch] if item.turn_id == turn_id]
        return turn.branch, max(of_turn, default=BEFORE_ALL)

    def forks(self) -> list[ForkPoint]:
        """Every place with more than one way on, in order."""
        leaving: dict[tuple[int, int], list[int]] = {}
        for number, fork in sorted(self._begins.items()):
            leaving.setdefault(self._last_before(fork), []).append(number)
        found: list[tuple[int, ForkPoint]] = []
        for (branch, position), numbers in leaving.items():
            firsts = [self._sibling(number, BEFORE_ALL) for number in (branch, *numbers)]
            firsts[0] = self._sibling(branch, position)
            siblings = tuple(sibling for sibling in firsts if sibling is not None)
            if len(siblings) > 1:
                after = None if position == BEFORE_ALL else self._item_at(branch, position)
                found.append((position, ForkPoint(after, siblings)))
        return [point for _, point in sorted(found, key=lambda one: one[0])]

    def last_shown(self) -> StoredItem | None:
        """The last item on the path to the head."""
        for branch, up_to in self.path(self.head):
            index = self._index(branch, up_to)
            if index:
                return self._items[branch][index - 1]
        return None

    def _index(self, branch: int, up_to: int | None) -> int:
        positions = self._positions[branch]
        return len(positions) if up_to is None else bisect_right(positions, up_to)

    def _item_at(self, branch: int, position: int) -> StoredItem:
        return self._items[branch][self._index(branch, position) - 1]

    def _last_before(self, fork: Fork) -> tuple[int, int]:
        """The branch and position of the last item before a fork that is still there."""
        branch, up_to = fork.parent, fork.after
        while not self._index(branch, up_to):
            if branch not in self._begins:
                return branch, BEFORE_ALL
            branch, up_to = self._begins[branch].parent, self._begins[branch].after
        return branch, self._item_at(branch, up_to).position

    def _sibling(self, branch: int, after: int) -> Sibling | None:
        """How a branch goes on after a position."""
        index = self._index(branch, after)
        following = self._items[branch][index:]
        if not following:
            # A turn whose question was there already and that has no answer leaves no item.
            turn = self._branch_turns.get(branch) if after == BEFORE_ALL else None
            return Sibling(branch, turn, None, None, branch in self._shown) if turn is not None else None
        first = following[0]
        of_turn = [item for item in following if item.turn_id == first.turn_id] if first.turn_id is not None else []
        answer = next((item for item in of_turn if is_derived(item.id)), None)
        up_to = self._shown.get(branch, BEFORE_ALL)
        shown = up_to is None or first.position <= up_to
        turn = self._turns.get(first.turn_id) if first.turn_id is not None else None
        return Sibling(branch, turn, first if first is not answer else None, answer, shown)


def created_at(sibling: Sibling) -> datetime | None:
    """When it began."""
    first = sibling.said or sibling.answer
    if sibling.turn is not None:
        return sibling.turn.created_at
    return first.created_at if first is not None else None
