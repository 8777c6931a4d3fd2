"""Room on the disk that is kept for what has to be saved once the disk is full: a file beside the database.

To delete something takes room as well: SQLite keeps the old pages in its journal until the transaction is over. So a
deletion, or the end of a turn that runs, that finds the disk full gets the file's blocks and is begun anew. Until the
file could be made again nothing else may grow: that would eat up the room from which the next deletion has to live.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

MAKE_EVERY = 1.0
"""Seconds between two tries while the disk is full."""

BLOCK = 512
"""Bytes in which stat counts."""

PIECE = 64 * 2**10
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
SPENT = (
    "The disk that holds the database {where} is full, and what was kept for such a moment (store.reserve_mib) is used "
    "up. Nothing new is saved, so no turn begins, until there is room again: delete conversations or responses, or "
    "free some space on that disk."
)


class Reserve:
    """`size` bytes in a file of which nobody reads anything; fewer where the disk has no more. Without a file, or of no
    size, there is none.
    """

    def __init__(self, file: Path | None, size: int) -> None:
        self._file = file
        self._size = size
        self._whole = False
        self._tried_at = float("-inf")
        self._changing = asyncio.Lock()

    @property
    def whole(self) -> bool:
        """Whether there is nothing to be made."""
        return self._whole or self._file is None

    async def make(self, *, at_once: bool = False) -> bool:
        """Take the room that is not taken yet; False while the disk has less than all of it. `at_once`: also where that
        was tried a moment ago.
        """
        if self._whole or self._file is None:
            return True
        async with self._changing:
            if not self._whole and (at_once or time.monotonic() - self._tried_at >= MAKE_EVERY):
                self._whole = await asyncio.to_thread(_allocate, self._file, self._size)
                self._tried_at = time.monotonic()
            return self._whole

    async def release(self) -> bool:
        """Give the room to whoever needs it now; False where there is none to give."""
        if self._file is None or not self._size:
            return False
        async with self._changing:
            freed = await asyncio.to_thread(_empty, self._file)
            self._whole = self._whole and not freed
            self._tried_at = time.monotonic()
        if freed:
            log.warning("disk_full", reserve=str(self._file), released=freed)
        return freed > 0


def _allocate(file: Path, size: int) -> bool:
    """Whether there was room for all of it, or this file system can't keep any."""
    if not size:
        file.unlink(missing_ok=True)
        return True
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.warning("reserve_not_made", reserve=str(file), error=error.strerror)
        return error.errno not in NO_ROOM
    try:
        os.ftruncate(descriptor, min(size, os.fstat(descriptor).st_size))
        os.posix_fallocate(descriptor, 0, size)
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_ROOM:
            log.warning("reserve_not_made", reserve=str(file), error=error.strerror)
            return True
        _take_what_there_is(descriptor, size)
        return False
    finally:
        os.close(descriptor)
    return True


def _take_what_there_is(descriptor: int, size: int) -> None:
    disk = os.fstatvfs(descriptor)
    there = os.fstat(descriptor).st_blocks * BLOCK + disk.f_bavail * disk.f_frsize
    part = min(size, there // PIECE * PIECE)
    try:
        os.ftruncate(descriptor, part)
        if part:
            os.posix_fallocate(descriptor, 0, part)
    except OSError as error:  # somebody else was faster
        log.debug("reserve_not_made", error=error.strerror)


def _empty(file: Path) -> int:
    """How many bytes that has freed."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        freed = os.fstat(descriptor).st_blocks * BLOCK
        os.ftruncate(descriptor, 0)
        os.fsync(descriptor)  # some file systems have the blocks only then
    except OSError as error:
        log.warning("reserve_not_released", reserve=str(file), error=error.strerror)
        return 0
    finally:
        os.close(descriptor)
    return freed
