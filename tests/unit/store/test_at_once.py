"""Two servers on one PostgreSQL, each with many tasks, that change the same at the same moment."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import insert
from tests.postgresql import PostgreSQL
from tests.unit.store.bytes_there import bytes_there
from tests.unit.store.example_items import NOON, new_item
from tests.unit.store.pieces import piece
from tests.unit.store.stored_turns import STOPPED, active_turn_of

from quern.errors import ConversationBusy, ConversationNotFound, StorageExceeded, TurnNotContinuable
from quern.records import Conversation, Fork, StorageQuota, StoredItem, UsageRecord
from quern.store.branches import BranchStore
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.history import HistoryStore
from quern.store.items import append_items
from quern.store.keys import KeyStore
from quern.store.locking import lock_conversation
from quern.store.schema import turns
from quern.store.storage import StorageStore
from quern.store.transfer import TransferStore
from quern.store.turn_ends import TurnAlreadyEnded
from quern.store.turn_rows import NewTurn, ReopenedTurn, TurnEnd, queued_columns
from quern.store.turns import TurnStore
from quern.store.usage import UsageStore
from quern.types import Message, Role, TurnState

Build = Callable[..., NewTurn]
End = Callable[..., TurnEnd]
DAY = date(2026, 5, 1)


@pytest.fixture
async def both(postgresql: PostgreSQL) -> AsyncIterator[list[Database]]:
    """Two servers' databases, which are one."""
    url = postgresql.url(await asyncio.to_thread(postgresql.migrated_database))
    servers = [Database(url) for _ in range(2)]
    for server in servers:
        await server.open()
    yield servers
    for server in servers:
        await server.close()


async def outcomes(*steps: Coroutine[Any, Any, object]) -> Counter[type[object]]:
    """How many of the steps, all at once, came to what."""
    return Counter(type(outcome) for outcome in await asyncio.gather(*steps, return_exceptions=True))


def said(word: str) -> list[Message]:
    return [Message(Role.USER, word)]


async def begun(database: Database, name: str = "c") -> str:
    await ConversationStore(database).create(Conversation(name, "ann", NOON, NOON), [new_item(*said("first"))])
    return name


async def all_items(database: Database, conversation_id: str) -> list[StoredItem]:
    return (await BranchStore(database).of_conversation(conversation_id))[1]


async def test_of_many_turns_of_one_conversation_one_begins(both: list[Database], new_turn: Build, ended: End) -> None:
    conversation_id = await begun(both[0])
    for _ in range(5):
        several = [new_turn(conversation_id=conversation_id, new_conversation=False) for _ in range(12)]
        steps = [TurnStore(both[n % 2]).create(turn) for n, turn in enumerate(several)]
        assert await outcomes(*steps) == {type(None): 1, ConversationBusy: 11}
        active = await active_turn_of(both[0], conversation_id)
        assert await outcomes(*(TurnStore(one).finish(ended(str(active))) for one in both * 4)) == {
            bool: 1,
            TurnAlreadyEnded: 7,
        }
    there = await all_items(both[0], conversation_id)
    assert [item.position for item in there] == list(range(1 + 5 * 2))
    assert [len({item.turn_id for item in two}) for two in zip(there[1::2], there[2::2], strict=True)] == [1] * 5


async def test_items_that_are_put_at_once_have_places_of_their_own(both: list[Database]) -> None:
    conversation_id = await begun(both[0])
    steps = [
        HistoryStore(both[n % 2]).append(conversation_id, [new_item(*said(f"{n} {k}")) for k in range(3)], NOON)
        for n in range(20)
    ]
    assert await outcomes(*steps) == {type(None): 20}
    there = await all_items(both[0], conversation_id)
    assert [item.position for item in there] == list(range(1 + 20 * 3))
    words = [item.item.content.split()[0] for item in there[1:] if isinstance(item.item, Message)]
    assert all(len(set(words[n : n + 3])) == 1 for n in range(0, 60, 3))


async def test_branches_that_begin_one_after_the_other_have_numbers_of_their_own(
    both: list[Database], new_turn: Build, ended: End
) -> None:
    conversation_id = await begun(both[0])

    async def fork(database: Database) -> None:
        for _ in range(6):
            turn = replace(new_turn(conversation_id=conversation_id, new_conversation=False), fork=Fork(0, 0))
            while await outcomes(TurnStore(database).create(turn)) != {type(None): 1}:
                await asyncio.sleep(0)
            await TurnStore(database).finish(ended(turn.id))

    await asyncio.gather(*map(fork, both))
    forks, there, _ = await BranchStore(both[0]).of_conversation(conversation_id)
    assert [fork.number for fork in forks] == list(range(1, 13))
    assert Counter(item.branch for item in there) == {0: 1, **dict.fromkeys(range(1, 13), 2)}


async def test_a_quota_holds_to_the_byte(both: list[Database], new_turn: Build) -> None:
    quota = StorageQuota("ann", 1000)
    several = [replace(new_turn(prompt="x" * 90), quota=quota) for _ in range(40)]
    counted = await outcomes(*(TurnStore(both[n % 2]).create(turn) for n, turn in enumerate(several)))
    assert counted == {type(None): 11, StorageExceeded: 29}
    assert await StorageStore(both[0]).by_owner() == {"ann": 990}


async def test_usage_is_added_up_whoever_adds(both: list[Database]) -> None:
    used = UsageRecord(DAY, "ann", "m", 1, 10, 4, 3, 0.5)
    await asyncio.gather(*(UsageStore(both[n % 2]).add(used) for n in range(60)))
    assert await UsageStore(both[0]).between(DAY, DAY) == [UsageRecord(DAY, "ann", "m", 60, 600, 240, 180, 30.0)]


async def test_a_lost_turn_is_interrupted_and_counted_once(both: list[Database], new_turn: Build) -> None:
    several = [new_turn(owner=owner) for owner in ("ann", "bob") * 10]
    for turn in several:
        await TurnStore(both[0]).create(turn)
        await TurnStore(both[0]).append([piece(turn.id, 1, "so far")])
    found = await asyncio.gather(*(TurnStore(one).recover_interrupted(NOON, STOPPED) for one in both * 2))
    assert sorted(found) == [0, 0, 0, 20]
    used = await UsageStore(both[0]).between(NOON.date(), NOON.date())
    assert {one.owner: one.requests for one in used} == {"ann": 10, "bob": 10}
    assert {turn.text for turn in await TurnStore(both[1]).by_ids([turn.id for turn in several])} == {"so far"}


async def test_what_two_servers_journal_of_a_turn_is_saved_once(both: list[Database], new_turn: Build) -> None:
    several = [new_turn() for _ in range(4)]
    for turn in several:
        await TurnStore(both[0]).create(turn)

    async def write(database: Database, order: random.Random) -> None:
        for number in range(1, 16):
            entries = [piece(turn.id, number, f"{number} ") for turn in several]
            order.shuffle(entries)
            await TurnStore(database).append(entries, {turn.id: NOON for turn in several})

    await asyncio.gather(write(both[0], random.Random(1)), write(both[1], random.Random(2)))
    await TurnStore(both[0]).recover_interrupted(NOON, STOPPED)
    whole = "".join(f"{number} " for number in range(1, 16))
    assert {turn.text for turn in await TurnStore(both[0]).by_ids([turn.id for turn in several])} == {whole}


async def test_what_depends_on_a_conversation_is_looked_at_once_nobody_else_changes_it(
    both: list[Database], new_turn: Build, ended: End
) -> None:
    turn = new_turn()
    await TurnStore(both[0]).create(turn)
    await TurnStore(both[0]).finish(ended(turn.id, text=None, state=TurnState.FAILED))
    conversation_id = str(turn.conversation_id)
    again = ReopenedTurn(turn.id, "ann", TurnState.FAILED, (), "so far", {}, turn.sampling)
    steps = [TurnStore(both[1]).reopen(again), BranchStore(both[1]).choose(conversation_id, 0)]
    async with both[0].transaction() as connection:
        await lock_conversation(connection, conversation_id)
        waiting = [asyncio.ensure_future(step) for step in steps]
        await asyncio.sleep(0.1)
        later = queued_columns(new_turn(conversation_id=conversation_id), 0, None)
        await connection.execute(insert(turns).values(later))
        await append_items(connection, conversation_id, later["id"], [new_item(*said("later"))], NOON)
    refused = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in refused] == [TurnNotContinuable, ConversationBusy]


async def test_all_servers_hash_with_the_first_one_s_key(both: list[Database]) -> None:
    kept = await asyncio.gather(*(KeyStore(both[n % 2]).hash_key(bytes([n])) for n in range(10)))
    assert len(set(kept)) == 1


async def test_who_reads_sees_one_moment(both: list[Database], new_turn: Build, ended: End) -> None:
    conversation_id = await begun(both[0])

    async def write() -> None:
        for _ in range(25):
            turn = new_turn(conversation_id=conversation_id, new_conversation=False)
            await TurnStore(both[0]).create(turn)
            await TurnStore(both[0]).finish(ended(turn.id))

    writing = asyncio.ensure_future(write())
    seen: list[int] = []
    while not writing.done():
        copy = await TransferStore(both[1]).read(conversation_id, "ann")
        assert copy is not None
        wanted = {one.record.id: 2 if one.record.state is TurnState.COMPLETED else 1 for one in copy.turns}
        assert Counter(item.turn_id for item in copy.items if item.turn_id is not None) == wanted
        seen.append(len(copy.turns))
    await writing
    assert all(before <= after for before, after in pairwise(seen))
    assert len(set(seen)) > 2


class Storm:
    """All that can happen to two conversations of `ann`'s, at random."""

    expected = (ConversationBusy, ConversationNotFound, TurnAlreadyEnded, TurnNotContinuable)
    names = ("c0", "c1")

    def __init__(self, new_turn: Build, ended: End) -> None:
        self._chance = random.Random(5)
        self._new_turn, self._ended = new_turn, ended
        self.done: Counter[str] = Counter()

    @property
    def over(self) -> bool:
        """Whether everything has happened, and often enough."""
        return len(self.done) == 5 and sum(self.done.values()) >= 60

    async def act(self, database: Database) -> None:
        """Do some of it, as far as nothing is in the way."""
        steps = (self._say, self._say, self._put, self._choose, self._delete_all, self._delete_older)
        while not self.over:
            step = self._chance.choices(steps, weights=(4, 4, 2, 2, 1, 1))[0]
            with suppress(*self.expected):
                await step(database, self._chance.choice(self.names))
                self.done[step.__name__] += 1

    async def begin(self, database: Database, name: str) -> None:
        """Begin a conversation whenever it is gone."""
        while not self.over:
            if await ConversationStore(database).get(name, "ann") is None:
                await begun(database, name)
            await asyncio.sleep(0.001)

    async def _say(self, database: Database, name: str) -> None:
        store, turn = TurnStore(database), self._new_turn(conversation_id=name, new_conversation=False)
        await store.create(replace(turn, title="T", asked={"a": "ü"}))
        await store.append([piece(turn.id, 1, "x")], {turn.id: NOON})
        await store.finish(self._ended(turn.id))

    async def _put(self, database: Database, name: str) -> None:
        await HistoryStore(database).append(name, [new_item(*said("note"))], NOON)

    async def _choose(self, database: Database, name: str) -> None:
        await BranchStore(database).choose(name, 0)

    async def _delete_all(self, database: Database, _: str) -> None:
        await ConversationStore(database).delete_all("ann")

    async def _delete_older(self, database: Database, _: str) -> None:
        await ConversationStore(database).delete_older(datetime.now(UTC).replace(year=2100))


async def test_a_storm_of_everything_leaves_what_belongs_together(
    both: list[Database], new_turn: Build, ended: End
) -> None:
    storm = Storm(new_turn, ended)
    async with asyncio.TaskGroup() as tasks:
        for name, database in zip(storm.names, both, strict=True):
            tasks.create_task(storm.begin(database, name))
            for _ in range(4):
                tasks.create_task(storm.act(database))
    await TurnStore(both[0]).recover_interrupted(NOON, STOPPED)
    counted = await StorageStore(both[0]).by_owner()
    assert {owner: size for owner, size in counted.items() if size} == await bytes_there(both[1])
    for name in storm.names:
        there = await all_items(both[0], name)
        assert len({item.position for item in there}) == len(there)
