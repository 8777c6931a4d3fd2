"""What a stopped server leaves behind: every unfinished turn becomes interrupted and keeps the text that was saved."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.store.pieces import piece
from tests.unit.store.stored_turns import STOPPED, stored_turn

from quern.records import TurnRecord
from quern.sampling import SamplingParams
from quern.store.database import Database
from quern.store.history import HistoryStore
from quern.store.items import NewItem
from quern.store.schema import storable
from quern.store.turn_rows import JournalEntry, NewTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.store.usage import UsageStore
from quern.types import Message, Role, TurnState

WRITER = Path(__file__).with_name("writer_process.py")
NOW = datetime(2026, 5, 1, tzinfo=UTC)


async def recovered(url: str, turn_id: str) -> tuple[int, TurnRecord | None]:
    """Open the database as a server does at start; how many turns were interrupted, and the turn."""
    database = Database(url)
    await database.open()
    turns = TurnStore(database)
    count = await turns.recover_interrupted(NOW, STOPPED)
    record = await stored_turn(turns, turn_id)
    await database.close()
    return count, record


def write_until_killed(url: str, turn_id: str, numbers: int) -> int:
    """Run a writer, kill it with SIGKILL once it has reported so many numbers; the last number it reported."""
    with subprocess.Popen([sys.executable, str(WRITER), url, turn_id], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        for _ in range(numbers):
            process.stdout.readline()
        process.kill()
        rest = process.stdout.read().split()
    return int(rest[-1]) if rest else numbers - 1


async def test_a_killed_server_loses_nothing_that_was_saved(database_url: str) -> None:
    for attempt in range(3):
        turn_id = f"turn-{attempt}"
        last = await asyncio.to_thread(write_until_killed, database_url, turn_id, 10 + 7 * attempt)
        count, record = await recovered(database_url, turn_id)
        assert count == 1
        assert record is not None
        assert record.state is TurnState.INTERRUPTED
        assert record.text is not None
        saved = record.text.split("个 ")[:-1]
        assert saved == [f"{number} " for number in range(len(saved))]
        assert len(saved) in (last + 1, last + 2)


async def test_queued_and_running_turns_are_interrupted_and_ended_ones_kept(
    history: HistoryStore,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    queued, running, one_shot, over = new_turn(), new_turn(), new_turn(conversation_id=None), new_turn()
    for turn in (queued, running, one_shot, over):
        await turns.create(turn)
    for turn in (running, one_shot):
        await turns.append([], {turn.id: turn.created_at})
    await turns.append([piece(running.id, number, f"{number}") for number in range(1, 13)])
    await turns.finish(ended(over.id))
    completed = await stored_turn(turns, over.id)

    assert await turns.recover_interrupted(NOW, STOPPED) == 3
    records = {record.id: record for record in await turns.by_ids([queued.id, running.id, one_shot.id])}
    assert {record.state for record in records.values()} == {TurnState.INTERRUPTED}
    assert {record.finished_at for record in records.values()} == {NOW}
    assert all("The server stopped" in str(record.error) for record in records.values())
    assert [records[turn.id].text for turn in (queued, running, one_shot)] == ["", "123456789101112", None]
    assert await stored_turn(turns, over.id) == completed
    assert await history.of_conversation(str(running.conversation_id), "ann") == []
    assert await turns.recover_interrupted(NOW, STOPPED) == 0


async def test_a_conversation_goes_on_after_an_interruption(
    history: HistoryStore,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    lost = new_turn()
    await turns.create(lost)
    await turns.recover_interrupted(NOW, STOPPED)
    again = new_turn(conversation_id=lost.conversation_id, new_conversation=False, prompt="Again.")
    await turns.create(again)
    await turns.finish(ended(again.id, "Here."))
    assert await history.of_conversation(str(lost.conversation_id), "ann") == [
        Message(Role.USER, "Again."),
        Message(Role.ASSISTANT, "Here."),
    ]


pieces = st.lists(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=5)), max_size=6), max_size=6)


@settings(max_examples=12, deadline=None)
@given(batches=pieces, repeated=st.booleans())
def test_the_recovered_text_is_the_pieces_in_order(
    new_url: Callable[[], str], batches: list[list[tuple[int, str]]], repeated: bool
) -> None:
    async def scenario() -> None:
        database = Database(new_url())
        await database.open()
        turns = TurnStore(database)
        ids = ["a", "b", "c"]
        for turn_id in ids:
            said = (NewItem(f"said-in-{turn_id}", Message(Role.USER, "p")),)
            new = NewTurn(turn_id, "ann", "r", "m", said, SamplingParams(), NOW, f"of-{turn_id}", new_conversation=True)
            await turns.create(new)
        expected = dict.fromkeys(ids, "")
        number = 0
        for batch in batches:
            entries: list[JournalEntry] = []
            for which, written in batch:
                number += 1
                entries.append(piece(ids[which], number, written))
                expected[ids[which]] += storable(written)
            for _ in range(1 + repeated):
                await turns.append(entries)
        await turns.recover_interrupted(NOW, STOPPED)
        assert {record.id: record.text for record in await turns.by_ids(ids)} == expected
        await database.close()

    asyncio.run(scenario())


async def test_a_turn_that_was_lost_counts_as_a_request_once(
    database: Database, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    lost = new_turn()
    await turns.create(lost)
    for _ in range(2):
        await turns.recover_interrupted(NOW, STOPPED)
    [used] = await UsageStore(database).between(NOW.date(), NOW.date())
    assert (used.owner, used.model_id, used.requests) == (lost.owner, lost.model_id, 1)
    assert (used.prompt_tokens, used.completion_tokens) == (0, 0)
