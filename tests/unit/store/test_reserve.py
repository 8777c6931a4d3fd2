"""Room for what has to be saved once the disk is full. tests/e2e/test_full_disk.py has real full disks."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from quern.errors import DiskFull
from quern.store import reserve as module
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.reserve import Reserve
from quern.store.turn_rows import NewTurn, TurnEnd
from quern.store.turns import TurnStore

MIB = 2**20


def taken(file: Path) -> int:
    return file.stat().st_blocks * 512


def mode_of(file: Path) -> int:
    return file.stat().st_mode & 0o777


def files_beside(file: Path) -> list[Path]:
    return [*file.parent.iterdir()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "quern.db.reserve"


async def test_it_takes_its_room_for_this_user_alone_and_gives_it_back_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAKE_EVERY", 0.0)
    reserve = Reserve(file, 2 * MIB)
    assert await reserve.make()
    assert (taken(file), mode_of(file)) == (2 * MIB, 0o600)
    assert await reserve.release()
    assert taken(file) == 0
    assert not await reserve.release()
    assert await reserve.make()
    assert taken(file) == 2 * MIB
    smaller = Reserve(file, MIB)
    assert await smaller.make()
    assert taken(file) == MIB
    assert await Reserve(file, 0).make()
    assert [*files_beside(file)] == []


@pytest.mark.parametrize(("number", "grows"), [(errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EPERM, True)])
async def test_only_a_lack_of_room_keeps_others_from_growing(
    file: Path, number: int, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        reserve = Reserve(file, MIB)
        assert await reserve.make() is grows
        assert not await reserve.release()
    assert taken(file) == 0


async def test_there_is_none_without_a_file_and_nobody_is_kept_from_anything() -> None:
    reserve = Reserve(None, 5)
    assert await reserve.make()
    assert not await reserve.release()


@pytest.fixture
async def full(migrated_file: Path, new_turn: Callable[..., NewTurn], monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database that can't grow, with a turn `running` in it, and whose reserve can't be made again."""
    monkeypatch.setattr(module, "MAKE_EVERY", float("inf"))
    database = Database(f"sqlite+aiosqlite:///{migrated_file}", reserve_bytes=MIB)
    await database.open()
    await TurnStore(database).create(replace(new_turn(), id="running"))
    async with database.transaction() as connection:
        await connection.execute(text("PRAGMA max_page_count = 1"))
    return database


async def test_the_end_of_a_turn_uses_the_reserve_and_then_nothing_new_begins(
    full: Database, migrated_file: Path, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    file = migrated_file.with_name("quern.db.reserve")
    assert taken(file) == MIB
    turns = TurnStore(full)
    with pytest.raises(DiskFull, match="is full"):
        await turns.create(new_turn(prompt="x" * MIB))
    assert taken(file) == MIB, "what begins has no claim to it"
    with pytest.raises(DiskFull, match="is full"):
        await turns.finish(ended("running", text="x" * MIB))
    assert taken(file) == 0
    with pytest.raises(DiskFull, match=r"store\.reserve_mib"):
        await turns.create(new_turn(prompt="short"))
    assert len(await ConversationStore(full).delete_all("ann")) == 1
    await full.close()


async def test_commands_beside_a_stopped_server_leave_its_reserve_alone(full: Database, migrated_file: Path) -> None:
    await full.close()
    other = Database(f"sqlite+aiosqlite:///{migrated_file}")
    await other.open()
    await other.close()
    assert await asyncio.to_thread(taken, migrated_file.with_name("quern.db.reserve")) == MIB
