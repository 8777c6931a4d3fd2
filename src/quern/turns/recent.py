"""What is still known of turns a while after their end: enough to say why they were slow.

Prompts are kept as ids, four bytes a token, beside the items that they were made of; the oldest go once there are too
many tokens or turns.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from quern.turns.request import ChatInput, TokenInput
from quern.types import Item

if TYPE_CHECKING:
    from quern.turns.turn import Turn

MOST_TURNS = 256
MOST_TOKENS = 2**20


@dataclass(frozen=True, slots=True)
class Said:
    """What a prompt was made of: what the conversation had before, and what the request gave."""

    history: tuple[Item, ...]
    given: ChatInput | TokenInput


@dataclass(frozen=True, slots=True)
class Queue:
    """Who ran and who waited before a turn, when it began to wait; `keys`: how many turns of each key, by its name."""

    own_running: int
    own_waiting: int
    others_running: int
    others_waiting: int
    keys: Counter[str]

    @classmethod
    def before(cls, turn: Turn, active: Collection[Turn]) -> Queue:
        """The turns that came before this one and are still active."""
        rivals = [one for one in active if one.arrived_at < turn.arrived_at]
        own = Counter(one.running_at is not None for one in rivals if one.owner == turn.owner)
        others = Counter(one.running_at is not None for one in rivals if one.owner != turn.owner)
        return cls(own[True], own[False], others[True], others[False], Counter(one.principal.name for one in rivals))


class Occupancy:
    """How many turns run, over time. Times are in seconds of one clock."""

    def __init__(self) -> None:
        self._running = 0
        self._area = 0.0
        self._at = 0.0

    def change(self, difference: int, now: float) -> None:
        """So many more run from now on."""
        self._area += self._running * (now - self._at)
        self._running += difference
        self._at = now

    def area(self, now: float) -> float:
        """Turns times seconds until now. What it grows by, over the time that takes, is the mean that ran."""
        return self._area + self._running * (now - self._at)


@dataclass(frozen=True, slots=True)
class RecentTurn:
    """A turn's ids: those of its prompt and those that were generated, and what the prompt was made of."""

    id: str
    request_id: str
    owner: str
    cache_salt: str
    cache_tag: str
    priority: str
    arrived_at: float
    said: Said
    prompt: array[int]
    generated: array[int]
    queue: Queue | None
    mean_running: float | None

    @classmethod
    def of(cls, turn: Turn, occupancy: Occupancy, now: float) -> RecentTurn:
        """A turn as it is now."""
        ran = now - turn.running_at if turn.running_at is not None else 0.0
        return cls(
            id=turn.id,
            request_id=turn.request_id,
            owner=turn.owner,
            cache_salt=turn.request.cache_salt,
            cache_tag=turn.request.cache_tag,
            priority=turn.request.priority.label,
            arrived_at=turn.arrived_at,
            said=turn.said,
            prompt=array("I", turn.request.prompt),
            generated=array("I", turn.generated),
            queue=turn.queue,
            mean_running=(occupancy.area(now) - turn.occupied) / ran if ran > 0 else None,
        )

    @property
    def tokens(self) -> int:
        """How many ids are kept."""
        return len(self.prompt) + len(self.generated)


class RecentTurns:
    """The last turns that ended. `most_turns`, `most_tokens`: what is kept of them at most."""

    def __init__(self, most_turns: int = MOST_TURNS, most_tokens: int = MOST_TOKENS) -> None:
        self._most_turns = most_turns
        self._most_tokens = most_tokens
        self._turns: OrderedDict[str, RecentTurn] = OrderedDict()
        self._tokens = 0
        self._retries: OrderedDict[tuple[str, str], str] = OrderedDict()

    def __iter__(self) -> Iterator[RecentTurn]:
        """The newest first."""
        return iter([*reversed(self._turns.values())])

    def add(self, turn: RecentTurn) -> None:
        """Keep a turn that has ended, for the first time or again."""
        before = self._turns.pop(turn.id, None)
        self._tokens -= before.tokens if before is not None else 0
        self._turns[turn.id] = turn
        self._tokens += turn.tokens
        while len(self._turns) > self._most_turns or (self._tokens > self._most_tokens and len(self._turns) > 1):
            _, oldest = self._turns.popitem(last=False)
            self._tokens -= oldest.tokens

    def retried(self, owner: str, request_id: str, turn_id: str) -> None:
        """A request of an owner's got a turn that another one had started."""
        self._retries[owner, request_id] = turn_id
        while len(self._retries) > self._most_turns:
            self._retries.popitem(last=False)

    def names(self, given: Sequence[str], owner: str) -> list[str]:
        """These ids of turns and requests, and those of the turns that the requests got as retries."""
        retried = [self._retries[owner, name] for name in given if (owner, name) in self._retries]
        return [*given, *retried]

    def forget(self, tags: Set[str]) -> None:
        """Forget the turns that were generated under these tags."""
        for turn in [one for one in self._turns.values() if one.cache_tag in tags]:
            self._tokens -= self._turns.pop(turn.id).tokens

    def get(self, turn_id: str) -> RecentTurn | None:
        """A turn that is still known."""
        return self._turns.get(turn_id)


S = TypeVar("S", str, "array[int]")


def common_length(first: S, second: S) -> int:
    """How many ids, or characters, two sequences begin with alike."""
    shorter = min(len(first), len(second))
    if first[:shorter] == second[:shorter]:
        return shorter
    low, high = 0, shorter  # alike up to `low`, not up to `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if first[low:middle] == second[low:middle] else (low, middle)
    return low
