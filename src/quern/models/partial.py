"""The part of a file that is here already, kept from one attempt to the next."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from quern.models.atomic_files import load_record, save_record


class _State(BaseModel):
    """`sha256`: of the whole file that this is a part of. `boundaries`: sizes at which a piece of it was complete."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    boundaries: tuple[int, ...] = ()


class PartialFile:
    """`<file>.part`, with `<file>.part.json` saying which file's bytes it holds. All methods raise OSError."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._state_path = target.with_name(target.name + ".part.json")
        self._state = _State(sha256="")

    @property
    def size(self) -> int:
        """Bytes held."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Sizes after each complete piece, as far as they are within the bytes held."""
        return tuple(size for size in self._state.boundaries if size <= self.size)

    def adopt(self, sha256: str, size: int) -> None:
        """Keep what is held if it belongs to the file with this checksum and size, else start from nothing."""
        state = load_record(self._state_path, _State)
        if state is None or state.sha256 != sha256 or self.size > size:
            self.path.unlink(missing_ok=True)
            state = _State(sha256=sha256)
            save_record(self._state_path, state)
        self._state = state

    def append(self, chunks: Iterable[bytes]) -> None:
        """Add `chunks` at the end as they come; those that came before an exception stay."""
        with self.path.open("ab", buffering=0) as file:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]

    def rewind(self, size: int) -> None:
        """Forget everything after the first `size` bytes."""
        if self.size > size:
            with self.path.open("r+b") as file:
                file.truncate(size)

    def mark_boundary(self) -> None:
        """Remember that a piece is complete at the present size."""
        self._state = _State(sha256=self._state.sha256, boundaries=(*self.boundaries, self.size))
        save_record(self._state_path, self._state)

    def discard(self) -> None:
        """Remove the bytes and the record."""
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)
