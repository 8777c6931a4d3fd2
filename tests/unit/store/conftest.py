"""An open database, and short ways to say what happens to a turn."""

import asyncio
import shutil
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest
from blockbuster import blockbuster_ctx
from sqlalchemy import func, make_url, select
from tests.postgresql import PostgreSQL
from tests.unit.store.example_items import new_item

from quern.records import NewResponse
from quern.sampling import SamplingParams
from quern.store import schema
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.generations import GenerationEnd, GenerationStore, packed
from quern.store.history import HistoryStore
from quern.store.responses import ResponseStore
from quern.store.turn_rows import NewTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.types import FinishReason, Item, Message, Role, Timings, TurnState, Usage


@pytest.fixture(autouse=True)
def _nothing_blocks_the_event_loop() -> Iterator[None]:
    with blockbuster_ctx("quern"):
        yield


@pytest.fixture
def database_file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "quern.db"


@pytest.fixture
def migrated_file(database_file: Path, empty_database: Path) -> Path:
    """The file of `database`: a new one, unless the test has put one there."""
    if not database_file.exists():
        database_file.parent.mkdir()
        shutil.copy(empty_database, database_file)
    return database_file


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Gives URLs of new databases with all tables. Each test that has it, or one of the fixtures below, runs on both
    databases, but in modules about SQLite's files: their `database_url` is another one.
    """
    if request.param == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        return lambda: server.url(server.migrated_database())
    empty: Path = request.getfixturevalue("empty_database")
    folders: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    return lambda: f"sqlite+aiosqlite:///{shutil.copy(empty, folders.mktemp('data') / 'quern.db')}"


@pytest.fixture
def database_url(new_url: Callable[[], str]) -> str:
    return new_url()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def turns(database: Database) -> TurnStore:
    return TurnStore(database)


@pytest.fixture
def conversations(database: Database) -> ConversationStore:
    return ConversationStore(database)


@pytest.fixture
def history(database: Database) -> HistoryStore:
    return HistoryStore(database)


@pytest.fixture
def responses(database: Database) -> ResponseStore:
    return ResponseStore(database)


TABLES = (
    schema.conversations,
    schema.turns,
    schema.items,
    schema.turn_events,
    schema.generations,
    schema.responses,
)


@pytest.fixture
def generations(database: Database) -> GenerationStore:
    return GenerationStore(database)


@pytest.fixture
def rows(database: Database) -> Callable[[], Awaitable[dict[str, int]]]:
    """Counts the rows of each table of what was said."""

    async def count_rows() -> dict[str, int]:
        async with database.transaction() as connection:
            return {
                table.name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
                for table in TABLES
            }

    return count_rows


@pytest.fixture
def everything_stored(database_url: str, request: pytest.FixtureRequest) -> Callable[[], bytes]:
    """Reads all that there is: SQLite's files, or all rows of all of PostgreSQL's tables."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        folder = Path(str(url.database)).parent
        return lambda: b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    server: PostgreSQL = request.getfixturevalue("postgresql")

    def rows_of_all() -> bytes:
        rows = (server.execute(f"SELECT * FROM {table}", str(url.database)) for table in schema.metadata.tables)
        return b"".join(repr(row).encode() for of_table in rows for row in of_table)

    return rows_of_all


@pytest.fixture
def tick() -> Callable[[], datetime]:
    """A clock that goes on by a second whenever it is read."""
    seconds = count()
    return lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(seconds))


@pytest.fixture
def new_turn(tick: Callable[[], datetime]) -> Callable[..., NewTurn]:
    """A turn that begins a conversation of `ann`, unless a keyword says otherwise. `items` take the prompt's place."""

    def build(
        *,
        conversation_id: str | None = "",
        new_conversation: bool = True,
        owner: str = "ann",
        prompt: str = "Sort a list.",
        items: Sequence[Item] | None = None,
        sampling: SamplingParams | None = None,
        response: NewResponse | None = None,
    ) -> NewTurn:
        return NewTurn(
            id=str(uuid4()),
            owner=owner,
            request_id="request-1",
            model_id="a-model",
            items=tuple(map(new_item, [Message(Role.USER, prompt)] if items is None else items)),
            sampling=sampling or SamplingParams(),
            created_at=tick(),
            conversation_id=str(uuid4()) if not conversation_id and conversation_id is not None else conversation_id,
            new_conversation=new_conversation,
            plan={},
            prompt=packed(range(12)),
            response=response,
        )

    return build


@pytest.fixture
def ended(tick: Callable[[], datetime]) -> Callable[..., TurnEnd]:
    """The end of a turn, complete unless a keyword says otherwise. `items` take the text's place as its answer."""

    def build(
        turn_id: str,
        text: str | None = "sorted(xs)",
        *,
        items: Sequence[Item] | None = None,
        state: TurnState = TurnState.COMPLETED,
        error: str | None = None,
        repairs: int = 0,
        generation: GenerationEnd | None = None,
    ) -> TurnEnd:
        answer = [] if text is None else [Message(Role.ASSISTANT, text)]
        return TurnEnd(
            turn_id=turn_id,
            state=state,
            finish_reason=FinishReason.STOP if state is TurnState.COMPLETED else None,
            error=error,
            text=text,
            usage=Usage(prompt_tokens=12, cached_tokens=4, completion_tokens=3),
            timings=Timings(queued_ms=1.5, prefill_ms=20.25, decode_ms=300.125, drafts_accepted=2),
            finished_at=tick(),
            items=tuple(map(new_item, answer if items is None else items)),
            repairs=repairs,
            generation=generation,
        )

    return build


@pytest.fixture(autouse=True)
async def drivers_threads_end_before_the_loop() -> AsyncGenerator[None]:
    """A connection that could not be opened leaves a thread that still reports to the event loop for a moment."""
    yield
    async with asyncio.timeout(30):
        while any("_connection_worker_thread" in thread.name for thread in threading.enumerate()):
            await asyncio.sleep(0.005)
