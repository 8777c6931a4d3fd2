"""Which of several servers takes a request. Pure: whoever asks says what time it is.

A conversation's turns begin with what was said before. So a prompt that begins with the whole of an earlier one, under
the same salt, is that conversation's next turn and has its name; and it goes to the server that had the earlier one,
whose cache holds it. So does a prompt of which more than half is known, an edited one. Many conversations may begin
alike, with a long system message and tools: that would draw all of them to one server, so one is followed only while it
has no more than its share of what runs (consistent hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam,
2018). Else the server takes it that has the least to do for its weight.

A server that could not be reached, or dropped answers, is left alone for a while, the longer the more often that was.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

BLOCK_TOKENS = 64
MOST_KNOWN_BLOCKS = 200_000
MOST_OF_PROMPT = 0.5
"""A prompt goes where more than so much of it is known."""
BOUNDED_LOAD = 1.5
"""Times a server's share of what runs, and one more."""
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class Replica:
    """One server. `healthy`: it answers, as far as is known. `paused_until`: no request goes there before."""

    weight: float
    healthy: bool = True
    running: int = 0
    failures: int = 0
    paused_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """A server's number, and the name of the conversation, the same for all of its turns."""

    index: int
    session: str


@dataclass(slots=True)
class _Session:
    """A conversation: its name, its server, and the blocks of its last prompt."""

    name: str
    index: int
    blocks: int


@dataclass(slots=True)
class _Known:
    """Which conversation a beginning of a prompt belongs to, by its digest; the least recently used are forgotten."""

    sessions: OrderedDict[bytes, _Session] = field(default_factory=OrderedDict[bytes, _Session])

    def longest(self, digests: Sequence[bytes]) -> tuple[_Session | None, int]:
        """The conversation of the longest known beginning, and its blocks."""
        for count in range(len(digests), 0, -1):
            session = self.sessions.get(digests[count - 1])
            if session is not None:
                return session, count
        return None, 0

    def remember(self, digests: Sequence[bytes], session: _Session) -> None:
        for digest in digests:
            self.sessions[digest] = session
            self.sessions.move_to_end(digest)
        while len(self.sessions) > MOST_KNOWN_BLOCKS:
            self.sessions.popitem(last=False)


class Replicas:
    """Servers with `weights`, each greater than 0. For one thread."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._replicas = [Replica(weight) for weight in weights]
        self._known = _Known()

    def __getitem__(self, index: int) -> Replica:
        return self._replicas[index]

    @property
    def any_healthy(self) -> bool:
        """Whether at least one of them answers."""
        return any(replica.healthy for replica in self._replicas)

    def choose(self, prompt: Sequence[int], salt: str, now: float, without: Collection[int] = ()) -> Choice | None:
        """The server for a prompt, which runs there from now on until `ended`; None where there is none but those in
        `without`. Where all are paused, the one whose pause ends first is tried.
        """
        able = [index for index, one in enumerate(self._replicas) if one.healthy and index not in without]
        if not able:
            return None
        ready = [index for index in able if self._replicas[index].paused_until <= now]
        ready = ready or [min(able, key=lambda index: self._replicas[index].paused_until)]
        digests = _digests(prompt, salt)
        session, known = self._known.longest(digests)
        next_turn = session is not None and known >= session.blocks
        followed = session is not None and (next_turn or known * BLOCK_TOKENS > len(prompt) * MOST_OF_PROMPT)
        if session is None or not followed or session.index not in ready or self._overloaded(session.index, ready):
            index = min(ready, key=lambda index: (self._load(index), index))
        else:
            index = session.index
        name = session.name if session is not None and next_turn else _name(prompt, salt)
        self._known.remember(digests, _Session(name, index, len(digests)))
        self._replicas[index].running += 1
        return Choice(index, name)

    def ended(self, index: int) -> None:
        """What ran there runs no longer."""
        self._replicas[index].running -= 1

    def succeeded(self, index: int) -> None:
        """It has answered."""
        self._replicas[index].failures = 0
        self._replicas[index].paused_until = 0.0

    def failed(self, index: int, now: float) -> None:
        """It could not be reached, or has dropped an answer."""
        replica = self._replicas[index]
        replica.paused_until = now + min(FIRST_PAUSE_SECONDS * 2**replica.failures, LONGEST_PAUSE_SECONDS)
        replica.failures += 1

    def _load(self, index: int) -> float:
        return (self._replicas[index].running + 1) / self._replicas[index].weight

    def _overloaded(self, index: int, ready: Sequence[int]) -> bool:
        """Whether with one more it would have more than its bounded share of what runs on all that are ready."""
        weights = sum(self._replicas[other].weight for other in ready)
        share = (sum(self._replicas[other].running for other in ready) + 1) * self._replicas[index].weight / weights
        return self._replicas[index].running + 1 > BOUNDED_LOAD * share + 1


def _name(prompt: Sequence[int], salt: str) -> str:
    """Of a conversation that begins with a prompt; nobody can tell the prompt by it who doesn't know it."""
    return hashlib.blake2b(array("q", prompt).tobytes(), key=salt.encode()[:64], digest_size=16).hexdigest()


def _digests(prompt: Sequence[int], salt: str) -> list[bytes]:
    """Of each beginning that is whole blocks long, with its salt."""
    digests, last = list[bytes](), hashlib.blake2b(salt.encode(), digest_size=16).digest()
    ids = array("q", prompt)
    for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        last = hashlib.blake2b(last + ids[start : start + BLOCK_TOKENS].tobytes(), digest_size=16).digest()
        digests.append(last)
    return digests
