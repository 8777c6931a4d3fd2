"""Who goes next and who gives way: one engine, shared fairly between owners. Pure: no clock, no thread.

Start-time fair queueing (Goyal, Vin and Cheng 1996) over tokens, as Sheng et al. 2024 ("Fairness in Serving Large
Language Models") have it: what an owner has cost (prompt tokens that had to be computed and tokens generated, as they
happen) over its weight is its virtual time, and the lowest goes first. Each request that runs counts as `QUANTUM`
tokens more, an estimate that is taken back when it ends: so places and prompts are shared before anything was
generated. Who comes after a pause begins at the virtual time of those who wait: an idle server belongs to whoever asks,
and nobody saves up. Each priority has accounts of its own, for lower ones only use what higher ones leave.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from quern.engine.base import EmbedRequest, GenerateRequest, Priority

QUANTUM = 128
"""Tokens. A place changes hands where that makes two owners more equal, so between two changes in opposite directions
one owner costs twice as many more than the other.
"""

MINIMUM_RUN = 64
"""Tokens that a sequence which gave way gets further, at least, before it has to give way again."""

URGENT_PART = 3, 4
"""The part of places and of the KV cache that urgent requests have at most while others wait: three quarters."""

URGENT_IN_A_ROW = 3
"""Where there is one place only, somebody else gets it after so many urgent requests that went first."""

LOOKED_AT = 16
"""The first so many in line may go on where those before them find no room."""

MOST_IDLE = 1024
"""Owners without a request whose virtual time is remembered, where it is ahead of others."""


@dataclass(slots=True, eq=False)
class Claim:
    """One request's claim to a place. `number` grows with every arrival; `size`: the most tokens that it ever holds.

    `priority`: the one under which it waits or runs. `overtaken`: the sizes of those that went on before it while it
    found no room.
    """

    number: int
    size: int
    request: GenerateRequest | EmbedRequest
    priority: Priority = field(init=False)
    overtaken: int = 0

    def __post_init__(self) -> None:
        self.priority = self.request.current_priority

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self.request.owner


@dataclass(slots=True)
class _Account:
    """An owner within one priority. `served`: its virtual time."""

    weight: float
    served: float
    waiting: list[Claim] = field(default_factory=list[Claim])
    running: list[Claim] = field(default_factory=list[Claim])

    @property
    def place(self) -> float:
        """What one place counts."""
        return QUANTUM / self.weight

    @property
    def level(self) -> float:
        """What it has had, and what it holds."""
        return self.served + len(self.running) * self.place

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running


class _Class:
    """Everyone of one priority."""

    def __init__(self) -> None:
        self.accounts: dict[str, _Account] = {}
        self._virtual_time = 0.0

    @property
    def running(self) -> int:
        return sum(len(account.running) for account in self.accounts.values())

    def enter(self, claim: Claim) -> _Account:
        """The claim's account, brought to the virtual time."""
        self._advance()
        account = self.accounts.setdefault(claim.owner, _Account(claim.request.weight, self._virtual_time))
        account.weight = claim.request.weight
        account.served = max(account.served, self._virtual_time)
        return account

    def leave(self, claim: Claim) -> None:
        """The claim is taken out, whether it waits or runs."""
        account = self.accounts[claim.owner]
        (account.waiting if claim in account.waiting else account.running).remove(claim)
        if not account.idle:
            return
        self._advance()
        idle = [owner for owner, other in self.accounts.items() if other.idle]
        forgotten = [owner for owner in idle if self.accounts[owner].served <= self._virtual_time]
        if len(idle) - len(forgotten) > MOST_IDLE:
            forgotten.append(min(set(idle) - set(forgotten), key=lambda owner: self.accounts[owner].served))
        for owner in forgotten:
            del self.accounts[owner]

    def line(self) -> Iterable[Claim]:
        """Those who wait. An owner's second counts as if the first ran already."""
        tagged = [
            (account.level + index * account.place, claim.number, claim)
            for account in self.accounts.values()
            for index, claim in enumerate(account.waiting)
        ]
        return (claim for _, _, claim in sorted(tagged))

    def yielding(
        self,
        may: Callable[[Claim], bool] = lambda _: True,
        *,
        than: _Account | None = None,
        above: float = float("-inf"),
    ) -> Iterable[Claim]:
        """Those who run and `may`, in the order in which they would give way: the newest of whoever has the highest
        level, again and again; of those only who stay at `above` or higher without it, and nobody of the account
        `than`.
        """
        held = [
            (account.level - account.place, account, able)
            for account in self.accounts.values()
            if account is not than and (able := [claim for claim in account.running if may(claim)])
        ]
        while held:
            index = max(range(len(held)), key=lambda index: (held[index][0], held[index][2][-1].number))
            level, account, running = held.pop(index)
            if level < above:
                continue
            yield running.pop()
            if running:
                held.append((level - account.place, account, running))

    def _advance(self) -> None:
        """To the lowest of those who wait. Where nobody does, nobody is owed anything."""
        waiting = [account.served for account in self.accounts.values() if account.waiting]
        everybody = (account.served for account in self.accounts.values())
        self._virtual_time = max(self._virtual_time, min(waiting) if waiting else max(everybody, default=0.0))


class FairShares:
    """The claims to an engine's `places`, those that wait and those that run.

    A higher priority goes first and may take the places of lower ones; but the highest, whose requests are short, has a
    bound while others wait: three quarters of the places.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._urgent_places = max(1, places * URGENT_PART[0] // URGENT_PART[1])
        self._classes = {priority: _Class() for priority in Priority}
        self._claims: dict[Claim, _Account] = {}
        self._urgent_in_a_row = 0
        self._line: tuple[Claim, ...] | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(account.waiting) for of in self._classes.values() for account in of.accounts.values())

    @property
    def running(self) -> int:
        """How many run."""
        return sum(of.running for of in self._classes.values())

    @property
    def owners(self) -> int:
        """Owners that something is remembered of."""
        return len({owner for of in self._classes.values() for owner in of.accounts})

    def line(self) -> tuple[Claim, ...]:
        """Everyone who waits, first in line first."""
        if self._line is None:
            self._line = tuple(claim for priority in self._order() for claim in self._classes[priority].line())
        return self._line

    def level(self, claim: Claim) -> float:
        """What its owner has had and holds: the lower, the sooner it goes on."""
        return self._claims[claim].level

    def arrive(self, claim: Claim) -> None:
        """Join the line. Raises ValueError for a weight that is none."""
        if not claim.request.weight > 0:
            msg = f"a weight is greater than 0, and {claim.request.weight} is not"
            raise ValueError(msg)
        self._enter(claim, running=False)

    def start(self, claim: Claim) -> None:
        """It has a place."""
        others = any(account.waiting for account in self._classes[Priority.NORMAL].accounts.values())
        urgent = claim.priority is Priority.INTERACTIVE
        self._urgent_in_a_row = self._urgent_in_a_row + 1 if urgent and others else 0
        account = self._claims[claim]
        account.waiting.remove(claim)
        bisect.insort(account.running, claim, key=_number)
        claim.overtaken = 0
        self._line = None

    def stop(self, claim: Claim) -> None:
        """It gives its place back and waits again, among its owner's in the order of arrival. Nobody overtakes it."""
        claim.overtaken = claim.size
        account = self._claims[claim]
        account.running.remove(claim)
        bisect.insort(account.waiting, claim, key=_number)
        self._line = None

    def leave(self, claim: Claim) -> None:
        """It has ended, whether it waited or ran. Leaving twice is harmless."""
        if self._claims.pop(claim, None) is not None:
            self._classes[claim.priority].leave(claim)
            self._line = None

    def charge(self, claim: Claim, cost: int) -> None:
        """So many tokens were computed for it; fewer than none where it was charged too many."""
        account = self._claims[claim]
        account.served += cost / account.weight
        self._line = None

    def refresh(self) -> None:
        """Take in the priorities that requests have by now."""
        for claim, account in list(self._claims.items()):
            if claim.priority is not claim.request.current_priority:
                running = claim in account.running
                self.leave(claim)
                claim.priority = claim.request.current_priority
                self._enter(claim, running=running)

    def next_to_start(self, fits: Callable[[Claim], bool]) -> Claim | None:
        """The first in line that fits. Those before it that don't are overtaken, each by no more than its own size:
        then it holds back everyone behind it, until there is room for it.
        """
        passed: list[Claim] = []
        for claim in self.line()[:LOOKED_AT]:
            if all(other.overtaken + claim.size <= other.size for other in passed) and fits(claim):
                for other in passed:
                    other.overtaken += claim.size
                return claim
            passed.append(claim)
        return None

    def giving_way(self, claim: Claim, may: Callable[[Claim], bool] = lambda _: True) -> list[Claim]:
        """Who of those that `may` has to give way so that a claim finds a place, first the one that goes first.

        Those of lower priorities do. Of its own priority the newest of other owners do, as long as that makes them more
        equal: they still have had and hold at least as much as the claim's owner then.
        """
        account = self._claims[claim]
        urgent = self._classes[Priority.INTERACTIVE]
        bounded = claim.priority is Priority.INTERACTIVE and urgent.running >= self._urgent_places
        lower = [] if bounded else [of for priority, of in self._classes.items() if priority > claim.priority]
        yielding = [other for of in reversed(lower) for other in of.yielding(may)]
        if claim.priority is Priority.NORMAL:
            yielding += list(urgent.yielding(may))[: max(0, urgent.running - self._urgent_places)]
        equals = self._classes[claim.priority].yielding(may, than=account, above=account.level + account.place)
        return [*yielding, *equals]

    def make_way(
        self,
        claim: Claim,
        enough: Callable[[Sequence[Claim]], bool],
        settled: Callable[[Claim], bool],
        able: Callable[[Claim], bool] = lambda _: True,
    ) -> list[Claim] | None:
        """The fewest of those who run and are `able` to that have to give way for a claim: so many that it is `enough`.
        None where it never is.

        Only those give way that are `settled`, having run long enough since they last did; but somebody who waits comes
        before what nobody waits for, at once.
        """
        comes_first = claim.priority is not Priority.BACKGROUND

        def may(other: Claim) -> bool:
            return able(other) and (settled(other) or (comes_first and other.priority is Priority.BACKGROUND))

        yielding = self.giving_way(claim, may)
        if not yielding or not enough(yielding):
            return None
        return next(yielding[:count] for count in range(1, len(yielding) + 1) if enough(yielding[:count]))

    @staticmethod
    def is_too_urgent(claim: Claim, held: int, whole: int) -> bool:
        """Whether nobody has to give way to a claim: an urgent one that, with what its like hold, would have `held` of
        the `whole` KV cache, which is more than they may.
        """
        return claim.priority is Priority.INTERACTIVE and held * URGENT_PART[1] > whole * URGENT_PART[0]

    def last(self) -> Claim:
        """Who gives way where somebody has to: of the lowest priority, the newest of whoever has the highest level.

        Raises LookupError where nobody runs.
        """
        for of in reversed(self._classes.values()):
            for claim in of.yielding():
                return claim
        msg = "nobody runs"
        raise LookupError(msg)

    def _order(self) -> Iterable[Priority]:
        urgent = self._classes[Priority.INTERACTIVE].running
        too_often = self._places == 1 and self._urgent_in_a_row >= URGENT_IN_A_ROW
        if urgent < self._urgent_places and not too_often:
            return Priority
        return Priority.NORMAL, Priority.INTERACTIVE, Priority.BACKGROUND

    def _enter(self, claim: Claim, *, running: bool) -> None:
        account = self._claims[claim] = self._classes[claim.priority].enter(claim)
        bisect.insort(account.running if running else account.waiting, claim, key=_number)
        self._line = None


def _number(claim: Claim) -> int:
    return claim.number
