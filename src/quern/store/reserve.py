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

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
SPENT = (
    "The disk that holds the database {where} is full, and what was kept for such a moment (store.reserve_mib) is used "
    "up. Nothing new is saved, so no turn begins, until there is room again: delete conversations or responses, or "
    "free some space on that disk."
)


class Reserve:
    """`size` bytes in a file of which nobody reads anything. Without a file, or of no size, there is none."""

    def __init__(self, file: Path | None, size: int) -> None:
        self._file = file
        self._size = size if file is not None else 0
        self._held = False
        self._tried_at = float("-inf")
        self._changing = asyncio.Lock()

    async def make(self) -> bool:
        """Take the room where it is not taken; False while the disk has too little."""
        if self._held or self._file is None:
            return True
        async with self._changing:
            if not self._held and time.monotonic() - self._tried_at >= MAKE_EVERY:
                self._held = await asyncio.to_thread(self._allocate, self._file)
                self._tried_at = time.monotonic()
            return self._held

    async def release(self) -> bool:
        """Give the room to whoever needs it now; False where there is none to give."""
        async with self._changing:
            if not self._held or self._file is None or not self._size:
                return False
            freed = await asyncio.to_thread(_empty, self._file)
            self._held, self._tried_at = False, time.monotonic()
        log.warning("disk_full", reserve=str(self._file), released=freed)
        return freed > 0

    def _allocate(self, file: Path) -> bool:
        """Whether growing is all right: also where this file system has no such file to offer."""
        try:
            _allocate(file, self._size)
        except OSError as error:
            _empty(file)
            if error.errno in NO_ROOM:
                log.warning("disk_nearly_full", reserve=str(file), wanted=self._size)
                return False
            log.warning("reserve_not_made", reserve=str(file), error=error.strerror)
        return True


def _allocate(file: Path, size: int) -> None:
    """Raises OSError."""
    if not size:
        file.unlink(missing_ok=True)
        return
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, min(size, os.fstat(descriptor).st_size))
        os.posix_fallocate(descriptor, 0, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _empty(file: Path) -> int:
    """How many bytes that has freed."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        freed = os.fstat(descriptor).st_blocks * 512
        os.ftruncate(descriptor, 0)
        os.fsync(descriptor)  # some file systems have the blocks only then
    except OSError as error:
        log.warning("reserve_not_released", reserve=str(file), error=error.strerror)
        return 0
    finally:
        os.close(descriptor)
    return freed
