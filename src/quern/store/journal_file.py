"""What running turns wrote last, in files beside the database, so that a `kill -9` loses next to nothing.

A commit waits for the disk, and on a busy one for everybody else's writes too. What is written to a file without
waiting is the kernel's from then on, and survives the process. So the newest tokens go there many times a second, and
into the database about once a second. Only where the machine itself goes down is what was not committed lost.

When a commit begins, what comes after it goes to a new file, and once it is through, the older ones are deleted. Each
line is a checksum and a JSON array, `[turn id, first, last, pieces, ids]`; `[turn id]` says that nothing before it
counts for that turn any more.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from quern.store.turn_rows import JournalEntry


class JournalFile:
    """Of one database file, which may be named by a link; nobody else may use it meanwhile. Methods block, and raise
    OSError where the disk is full or broken.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._number = 0
        self._torn = False

    def read(self) -> list[JournalEntry]:
        """What a killed server left, one entry for each turn. Lines that were not written whole are left out, and so is
        what comes after a gap.
        """
        found = self._found()
        self._number = max(found, default=0) + 1
        return joined(line for number in sorted(found) for line in _lines(found[number]))

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Add what turns wrote."""
        self._write((one.turn_id, one.first, one.last, one.pieces, one.ids) for one in entries)

    def forget(self, turn_id: str) -> None:
        """What there is of a turn doesn't count any more: it begins another life."""
        self._write([(turn_id,)])

    def begin_commit(self) -> None:
        """From now on what is added is not part of the commit that begins."""
        self._number += 1
        self._torn = False

    def committed(self) -> None:
        """What was added before that commit began is in the database."""
        for number, path in self._found().items():
            if number < self._number:
                path.unlink(missing_ok=True)

    def _path(self, number: int | str) -> Path:
        file = self._resolved
        return file.with_name(f"{file.name}.unsaved-{number}")

    @cached_property
    def _resolved(self) -> Path:
        return self._database.resolve()

    def _found(self) -> dict[int, Path]:
        first = self._path("")
        names = {path.name.removeprefix(first.name): path for path in first.parent.glob(f"{first.name}*")}
        return {int(number): path for number, path in names.items() if number.isdecimal()}

    def _write(self, lines: Iterable[Sequence[object]]) -> None:
        data = b"".join(map(_line, lines))
        if self._torn:
            data = b"\n" + data
        descriptor = os.open(self._path(self._number), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            self._torn = True
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._torn = False
        finally:
            os.close(descriptor)


def joined(lines: Iterable[Sequence[Any]]) -> list[JournalEntry]:
    """Lines in the order in which they were written, as one entry for each turn."""
    found: dict[str, JournalEntry] = {}
    for turn_id, *rest in lines:
        before = found.get(turn_id)
        if not rest:
            found.pop(turn_id, None)
            continue
        first, last, pieces, ids = rest
        entry = JournalEntry(turn_id, first, last, _values(pieces), _values(ids))
        if before is None:
            found[turn_id] = entry
        elif first <= before.last + 1 <= last:
            found[turn_id] = _together(before, entry.after(before.last))
    return list(found.values())


def _together(before: JournalEntry, after: JournalEntry) -> JournalEntry:
    return JournalEntry(
        before.turn_id,
        before.first,
        after.last,
        before.pieces + after.pieces if before.pieces is not None and after.pieces is not None else None,
        before.ids + after.ids if before.ids is not None and after.ids is not None else None,
    )


def _values(given: list[Any] | None) -> tuple[Any, ...] | None:
    return None if given is None else tuple(given)


def _line(values: Sequence[object]) -> bytes:
    # ASCII, so that a lone surrogate can be written and no line break comes from a text.
    text = json.dumps(values, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _lines(path: Path) -> Iterator[Sequence[Any]]:
    for line in path.read_bytes().split(b"\n"):
        checksum, _, text = line.partition(b" ")
        if text and checksum == b"%08x" % zlib.crc32(text):
            yield json.loads(text)
