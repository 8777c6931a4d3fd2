"""Who takes part in a step, how many prompt tokens it computes, and whose.

A step lasts as long as its tokens take, and whoever writes an answer gets one token a step. So prompts are computed in
chunks: small ones while anybody writes, large ones (fewer steps, better use of the arithmetic units) while nobody does.

One chunk is divided between owners by their fair shares, and what is one owner's between two prompts at most times:
half belongs to the first in order, so that a long prompt is never starved; the other half to the one with the fewest
tokens left, so that a short question does not wait behind somebody's whole repository. What either has no use for goes
to the next with the fewest left. Equal prompts thus run one after the other, which is sooner for the first and no later
for the second than running them side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quern.engine.base import Priority
from quern.engine.cpu.sequence import Part, SequenceState
from quern.engine.fair_shares import Claim, FairShares

ALONE = 2

GRAIN = 8
"""Tokens that owners are given at a time."""

STEPS_ALONE = 3
"""After so many steps without them the others take part in one: a chat slows down, but never stands still."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Prompt tokens a step: `shared` while anybody writes, `ALONE` times as many while nobody does."""

    shared: int

    def tokens(self, *, writing: bool) -> int:
        """What the next step may compute."""
        return self.shared if writing else self.shared * ALONE


def divide(tokens: int, prompts: Sequence[SequenceState], shares: FairShares) -> list[Part]:
    """Divide a step's tokens between sequences with prompts to compute; a lower priority gets what others leave."""
    counts: dict[int, int] = {}
    for priority in Priority:
        owners: dict[str, list[SequenceState]] = {}
        for sequence in prompts:
            if sequence.priority is priority:
                owners.setdefault(sequence.claim.owner, []).append(sequence)
        pending = {owner: sum(sequence.pending for sequence in theirs) for owner, theirs in owners.items()}
        parts = split(tokens, pending, {owner: theirs[0].claim for owner, theirs in owners.items()}, shares)
        for owner, part in parts.items():
            counts |= _divide_among_equals(part, owners[owner])
            tokens -= part
    return [Part(sequence, counts[sequence.key]) for sequence in prompts if counts.get(sequence.key)]


def split(tokens: int, pending: Mapping[str, int], claims: Mapping[str, Claim], shares: FairShares) -> dict[str, int]:
    """Divide a step's prompt tokens between owners: each few go to whoever has had and holds the least.

    `pending`: how many each could use; `claims`: one claim of each, of one priority.
    """
    if len(pending) == 1:
        return {owner: min(tokens, most) for owner, most in pending.items()}
    counts = dict.fromkeys(pending, 0)
    levels = {owner: shares.level(claims[owner]) for owner in pending}
    hungry = {owner for owner, most in pending.items() if most}
    while tokens and hungry:
        owner = min(hungry, key=lambda owner: (levels[owner], claims[owner].number))
        count = min(GRAIN, tokens, pending[owner] - counts[owner])
        counts[owner] += count
        levels[owner] += count / claims[owner].request.weight
        tokens -= count
        if counts[owner] == pending[owner]:
            hungry.discard(owner)
    return counts


def _divide_among_equals(tokens: int, prompts: Sequence[SequenceState]) -> dict[int, int]:
    first = min(prompts, key=lambda sequence: sequence.key)
    counts = {first.key: min(first.pending, (tokens + 1) // 2)}
    left = tokens - counts[first.key]
    for sequence in sorted(prompts, key=lambda sequence: (sequence.pending, sequence.key)):
        before = counts.get(sequence.key, 0)
        more = min(sequence.pending - before, left)
        if more:
            counts[sequence.key] = before + more
            left -= more
    return counts


class Precedence:
    """A step lasts the longer the more take part. Who can't wait is therefore served without the others, most times."""

    def __init__(self) -> None:
        self._alone = 0

    def taking_part(self, running: Sequence[SequenceState]) -> Sequence[SequenceState]:
        """Who takes part in the next step; called once for each."""
        urgent = [sequence for sequence in running if sequence.priority is Priority.INTERACTIVE]
        if not urgent or self._alone == STEPS_ALONE:
            self._alone = 0
            return running
        self._alone += 1
        return urgent
