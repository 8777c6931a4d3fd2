"""The metadata at the head of a GGUF file.

Format: docs/gguf.md of ggml, versions 2 and 3, little-endian. Tensors are not touched. The reader of the `gguf` package
makes an array object of every string: seconds and half a gigabyte for a vocabulary of 150 thousand tokens.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

from quern.errors import ModelCorrupt, ModelLoadError, ModelNotFound

Scalar = int | float | bool | str
Value = Scalar | list[int] | list[float] | list[bool] | list[str]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_ITEMS = 2**26  # a longer string or array is a damaged length, not metadata
STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Metadata:
    """Metadata values by key; the getters check the type. They raise ModelCorrupt where it is another one."""

    def __init__(self, path: Path, values: Mapping[str, Value]) -> None:
        self.path = path
        self._values = values

    def text(self, key: str, default: str = "") -> str:
        """A string."""
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def integer(self, key: str) -> int | None:
        """A whole number, None where there is none."""
        value = self._values.get(key)
        if value is not None and not _is_integer(value):
            raise self._wrong(key, "a whole number")
        return value if isinstance(value, int) else None

    def boolean(self, key: str) -> bool | None:
        """Yes or no, None where there is none."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, "a boolean")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings, empty where there is none."""
        value = self._values.get(key, [])
        if not isinstance(value, list):
            raise self._wrong(key, "a list of strings")
        texts = [item for item in value if isinstance(item, str)]
        if len(texts) != len(value):
            raise self._wrong(key, "a list of strings")
        return texts

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers, empty where there is none; a single number is a list of one."""
        value = self._values.get(key, [])
        items = value if isinstance(value, list) else [value]
        integers = [int(item) for item in items if _is_integer(item)]
        if len(integers) != len(items):
            raise self._wrong(key, "a list of whole numbers")
        return integers

    def _wrong(self, key: str, expected: str) -> ModelCorrupt:
        return ModelCorrupt(
            f"The model file {self.path} is damaged: its metadata value {key} is not {expected}. Fetch the file again."
        )


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of a GGUF file; a Qwen vocabulary takes about 0.2 seconds.

    Raises ModelNotFound, ModelCorrupt where the bytes are not what they should be, ModelLoadError where the file can't
    be read or is of another version.
    """
    try:
        check_magic(path)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return Metadata(path, _Reader(data, path).read())
    except FileNotFoundError as error:
        raise ModelNotFound(f"There is no model file {path}.") from error
    except OSError as error:
        raise ModelLoadError(f"The model file {path} can't be read: {error.strerror}.") from error
    except (_DamagedError, UnicodeDecodeError, struct.error) as error:
        raise ModelCorrupt(
            f"The model file {path} is damaged or was not fetched completely: its header can't be read ({error}). "
            f"Fetch the file again."
        ) from error


def check_magic(path: Path) -> None:
    """Look at the file's first bytes. Raises ModelCorrupt unless they are a GGUF file's, and OSError."""
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
    if start != MAGIC:
        raise ModelCorrupt(
            f"{path} is not a GGUF file: it starts with {start!r} and not with {MAGIC!r}. Fetch it again, or give "
            f"the path of a .gguf file or a catalog name (`quern models`)."
        )


def _is_integer(value: Value | None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _DamagedError(Exception):
    """Lengths or types in the header that can't be right."""


class _Reader:
    """Reads the header's values one after the other."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self._at = len(MAGIC)

    def read(self) -> dict[str, Value]:
        version = self._integer("I")
        if version not in VERSIONS:
            raise ModelLoadError(
                f"The model file {self._path} is of GGUF version {version}; Quern reads versions 2 and 3 in "
                f"little-endian order. Use a newer conversion of the model."
            )
        self._integer("Q")
        count = self._integer("Q")
        return dict(self._entry() for _ in range(self._checked(count)))

    def _entry(self) -> tuple[str, Value]:
        (key,) = self._strings(1)
        kind = self._integer("I")
        if kind != ARRAY:
            return key, self._items(kind, 1)[0]
        return key, self._items(self._integer("I"), self._checked(self._integer("Q")))

    def _items(self, kind: int, count: int) -> list[int] | list[float] | list[bool] | list[str]:
        if kind == STRING:
            return self._strings(count)
        code = NUMBERS.get(kind)
        if code is None:
            msg = f"value type {kind} at byte {self._at} is unknown"
            raise _DamagedError(msg)
        numbers = struct.Struct(f"<{count}{code}")
        values = list(numbers.unpack_from(self._data, self._at))
        self._at += numbers.size
        return values

    def _strings(self, count: int) -> list[str]:
        length_of = struct.Struct("<Q").unpack_from
        data, at, end = self._data, self._at, len(self._data)
        strings: list[str] = []
        for _ in range(count):
            (length,) = length_of(data, at)
            at += 8
            if at + self._checked(length) > end:
                msg = f"a string at byte {at} goes past the end"
                raise _DamagedError(msg)
            strings.append(data[at : at + length].decode())
            at += length
        self._at = at
        return strings

    def _integer(self, code: str) -> int:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(code)
        return value

    def _checked(self, count: int) -> int:
        if count > MOST_ITEMS:
            msg = f"a length of {count} at byte {self._at} can't be right"
            raise _DamagedError(msg)
        return count
