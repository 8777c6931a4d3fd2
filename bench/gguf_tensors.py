"""The tensor table of a GGUF file, without the metadata before it.

Format: docs/gguf.md of ggml, version 3. The reader of the `gguf` package makes objects of all the metadata first, which
takes it many seconds and half a gigabyte for a vocabulary of 150 thousand tokens.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

STRING, ARRAY = 8, 9
NUMBER_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor. `shape` is GGUF's, innermost dimension first; `type` is GGUF's name, such as `Q4_K`."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """What its data take in the file."""
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[self.type]]
        return prod(self.shape) // block * size


def read_tensors(path: Path) -> list[Tensor]:
    """All tensors of a file that some engine loads: nothing is checked here."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Table(data).read()


class _Table:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = len(b"GGUF") + 4

    def read(self) -> list[Tensor]:
        tensors, entries = self._number("Q"), self._number("Q")
        for _ in range(entries):
            self._bytes()
            self._skip_value(self._number("I"))
        return [self._tensor() for _ in range(tensors)]

    def _tensor(self) -> Tensor:
        name = self._bytes().decode()
        shape = tuple(self._number("Q") for _ in range(self._number("I")))
        kind = GGMLQuantizationType(self._number("I"))
        self._number("Q")  # where the data are
        return Tensor(name, kind.name, shape)

    def _skip_value(self, kind: int) -> None:
        if kind == STRING:
            self._bytes()
        elif kind == ARRAY:
            item, count = self._number("I"), self._number("Q")
            if item == STRING:
                for _ in range(count):
                    self._bytes()
            else:
                self._at += NUMBER_BYTES[item] * count
        else:
            self._at += NUMBER_BYTES[kind]

    def _bytes(self) -> bytes:
        length = self._number("Q")
        self._at += length
        return self._data[self._at - length : self._at]

    def _number(self, code: str) -> int:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(code)
        return value
