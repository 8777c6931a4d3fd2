"""Conversations taken elsewhere and brought from elsewhere, whole: all branches, turns and items.

A file of any length is brought without being in memory: it is laid aside in the data directory as it comes, read once
to see that it is whole, and once more to be stored, some conversations at a time.

What is brought gets ids of its own, so that it can be brought twice, and so that nobody learns whether an id is taken.
An answer's items still have ids that say so (`identity.py`).
"""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from quern.access.usage import UsageMeter
from quern.errors import ConversationNotFound, StoreError, TooLarge
from quern.records import Conversation, ConversationCopy, StoredItem, TurnCopy
from quern.store.transfer import TransferStore
from quern.turns.history import NO_CONVERSATION
from quern.turns.identity import is_derived, item_id
from quern.types import TurnState

Read = Callable[[IO[bytes]], Iterator[ConversationCopy]]
"""A dialect's: from a file to the conversations in it, one after the other. Raises InvalidRequest."""

AT_ONCE = 2**20
"""Bytes of a file that are kept in memory before they are written, to the disk or to the database. A conversation is
stored whole, however long it is.
"""
TOO_LARGE = (
    "The file is larger than {most} bytes, the limit set by conversations.max_import_bytes. Nothing was imported. "
    "Bring fewer conversations at a time."
)
NOT_LAID_ASIDE = "The file can't be laid aside in the data directory ({why}), so nothing was imported. Make room there."
NOT_OVER = "The turn was still running where this conversation was exported, so its answer is not whole."


class TransferService:
    """An owner's conversations; another owner's don't exist."""

    def __init__(self, store: TransferStore, usage: UsageMeter, folder: Path, most_bytes: int) -> None:
        self._store = store
        self._usage = usage
        self._folder = folder
        self._most_bytes = most_bytes
        self._bringing = asyncio.Lock()

    async def export(self, conversation_id: str, owner: str) -> ConversationCopy:
        """All of a conversation. Raises ConversationNotFound."""
        copy = await self._store.read(conversation_id, owner)
        if copy is None:
            raise ConversationNotFound(NO_CONVERSATION)
        return copy

    async def export_all(self, owner: str) -> AsyncGenerator[ConversationCopy]:
        """All of the owner's conversations, the oldest first, each as it is when its turn comes."""
        for conversation_id in await self._store.ids(owner):
            copy = await self._store.read(conversation_id, owner)
            if copy is not None:  # else it was deleted meanwhile
                yield copy

    def check_size(self, size: int) -> None:
        """Raise TooLarge for a file of more bytes than are imported."""
        if size > self._most_bytes:
            raise TooLarge(TOO_LARGE.format(most=self._most_bytes))

    async def bring(self, pieces: AsyncIterator[bytes], read: Read, owner: str) -> list[tuple[str, Conversation]]:
        """Make the conversations of a file the owner's, all or none; each with the id that it had. Files are stored one
        after the other. Only a server that is killed meanwhile leaves those that are stored by then.

        Raises TooLarge, StorageExceeded, StoreError and what `read` raises.
        """
        async with self._laid_aside(pieces) as file, self._bringing:
            await asyncio.to_thread(_read_through, read, file)
            brought: list[tuple[str, Conversation]] = []
            batches = _batches(read, file)
            try:
                while batch := await asyncio.to_thread(next, batches, None):
                    new = [_with_new_ids(copy, owner) for copy in batch]
                    pairs = zip(batch, new, strict=True)
                    brought += [(old.conversation.id, copy.conversation) for old, copy in pairs]
                    await self._store.write(new, self._usage.storage_quota(owner))
            except BaseException:
                await self._store.remove([conversation.id for _, conversation in brought])
                raise
        return brought

    @asynccontextmanager
    async def _laid_aside(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[IO[bytes]]:
        """What comes, as a file without a name, so that nothing is left of it whatever happens."""
        size, waiting = 0, bytearray()
        try:
            file = await asyncio.to_thread(tempfile.TemporaryFile, dir=self._folder)
            try:
                async for piece in pieces:
                    size += len(piece)
                    self.check_size(size)
                    waiting += piece
                    if len(waiting) >= AT_ONCE:
                        await asyncio.to_thread(file.write, waiting)
                        waiting = bytearray()
                await asyncio.to_thread(file.write, waiting)
                yield file
            finally:
                await asyncio.to_thread(file.close)
        except OSError as error:
            raise StoreError(NOT_LAID_ASIDE.format(why=error.strerror or error)) from error


def _read_through(read: Read, file: IO[bytes]) -> None:
    file.seek(0)
    for _ in read(file):
        pass


def _batches(read: Read, file: IO[bytes]) -> Iterator[list[ConversationCopy]]:
    """The conversations, as many at a time as are in some bytes of the file."""
    file.seek(0)
    batch: list[ConversationCopy] = []
    begins = 0
    for copy in read(file):
        batch.append(copy)
        if file.tell() - begins >= AT_ONCE:
            yield batch
            batch, begins = [], file.tell()
    if batch:
        yield batch


def _with_new_ids(copy: ConversationCopy, owner: str) -> ConversationCopy:
    conversation = replace(copy.conversation, id=str(uuid.uuid4()), owner=owner)
    turn_ids = {turn.record.id: str(uuid.uuid4()) for turn in copy.turns}
    answered: Counter[str] = Counter()

    def renewed(stored: StoredItem) -> StoredItem:
        turn_id = turn_ids[stored.turn_id] if stored.turn_id is not None else None
        new = str(uuid.uuid4())
        if turn_id is not None and is_derived(stored.id):
            new = item_id(turn_id, answered[turn_id])
            answered[turn_id] += 1
        return replace(stored, id=new, conversation_id=conversation.id, turn_id=turn_id)

    turns = tuple(_ended(turn, turn_ids[turn.record.id], conversation.id, owner) for turn in copy.turns)
    return ConversationCopy(conversation, copy.branches, turns, tuple(map(renewed, copy.items)))


def _ended(turn: TurnCopy, turn_id: str, conversation_id: str, owner: str) -> TurnCopy:
    record = replace(turn.record, id=turn_id, conversation_id=conversation_id, owner=owner)
    if not record.state.terminal:
        finished = record.finished_at or record.started_at or record.created_at
        record = replace(record, state=TurnState.INTERRUPTED, error=NOT_OVER, finished_at=finished)
    return replace(turn, record=record)
