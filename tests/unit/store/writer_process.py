"""A server to be killed: opens the database, starts a turn, and saves numbered pieces of text for ever.

Arguments: the database's URL and the turn's id. Writes `open`, then each number once its piece is saved.
"""

import asyncio
import sys
from datetime import UTC, datetime
from itertools import count

from quern.sampling import SamplingParams
from quern.store.database import Database
from quern.store.items import NewItem
from quern.store.turn_rows import JournalEntry, NewTurn
from quern.store.turns import TurnStore
from quern.types import Message, Role


async def write(url: str, turn_id: str) -> None:
    """Write until killed."""
    database = Database(url)
    await database.open()
    sys.stdout.write("open\n")
    sys.stdout.flush()
    turns = TurnStore(database)
    now = datetime.now(UTC)
    said = (NewItem(f"said-in-{turn_id}", Message(Role.USER, "Count.")),)
    await turns.create(
        NewTurn(turn_id, "ann", "request-1", "a-model", said, SamplingParams(), now, f"of-{turn_id}", True)
    )
    await turns.append([], {turn_id: now})
    for number in count(1):
        await turns.append([JournalEntry(turn_id, number, number, (f"{number - 1} 个 ",))])
        sys.stdout.write(f"{number - 1}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(write(*sys.argv[1:]))
