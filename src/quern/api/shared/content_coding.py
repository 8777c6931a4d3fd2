"""Bodies that came packed (`Content-Encoding`): unpacked, and bounded while they are.

Sources: RFC 9110, 8.4.1 (gzip, and deflate, which is zlib's format, though some send raw deflate); gzip's manual (what
follows a member may be padded with zeros); RFC 8878 and RFC 9659 (zstd, with a window of 8 MB at most).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

CODINGS = ("gzip", "deflate", "zstd")
PARTS_AT_MOST = 64
"""gzip members or zstd frames in a row: each costs something, however little is in it."""
ZSTD_WINDOW_BYTES = 8 * 2**20
PIECE_BYTES = 256
"""zstd unpacks a piece at once, at worst to some 32,000 times its size."""


GZIP = 16 + zlib.MAX_WBITS
"""What tells zlib to read gzip."""


class UnpackedTooLarge(Exception):
    """More came out than may."""


class Corrupt(Exception):
    """What was sent isn't packed as it says. The message goes on after "The body is not valid gzip: "."""


class UnknownCoding(Exception):
    """The message is the coding's name."""


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


def codings(value: str) -> list[str]:
    """A header's codings in the order in which they were applied. Raises UnknownCoding."""
    names = [name.strip().lower().removeprefix("x-") for name in value.split(",")]
    names = [name for name in names if name not in {"", "identity"}]
    for name in names:
        if name not in CODINGS:
            raise UnknownCoding(name)
    return names


def unpack(body: bytes, coding: str, limit: int) -> bytes:
    """The body as it was, at most `limit` bytes. Raises UnpackedTooLarge or Corrupt."""
    if not body:
        return body
    try:
        if coding == "zstd":
            return _unpack_zstd(body, limit)
        return _unpack_zlib(body, _window_bits(body, coding), limit)
    except (zlib.error, zstandard.ZstdError) as error:
        raise Corrupt(str(error)) from error


def _window_bits(body: bytes, coding: str) -> int:
    """How zlib is told which format to read. A header of zlib's names method 8 and is a multiple of 31."""
    if coding == "gzip":
        return GZIP
    is_zlib = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS


def _unpack_zlib(body: bytes, window_bits: int, limit: int) -> bytes:
    padding = b"\0" if window_bits == GZIP else b""

    def unpacked(rest: bytes, room: int) -> tuple[bytes, bytes]:
        unpacker = zlib.decompressobj(window_bits)
        part = unpacker.decompress(rest, room + 1)
        if len(part) > room:
            raise UnpackedTooLarge
        _check_whole(unpacker)
        return part, unpacker.unused_data.lstrip(padding)

    return _all_parts(body, limit, unpacked)


def _unpack_zstd(body: bytes, limit: int) -> bytes:
    def unpacked(rest: bytes, room: int) -> tuple[bytes, bytes]:
        unpacker = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
        parts: list[bytes] = []
        start = 0
        while start < len(rest) and not unpacker.eof:
            parts.append(unpacker.decompress(rest[start : start + PIECE_BYTES]))
            start += PIECE_BYTES
            room -= len(parts[-1])
            if room < 0:
                raise UnpackedTooLarge
        _check_whole(unpacker)
        return b"".join(parts), unpacker.unused_data + rest[start:]

    return _all_parts(body, limit, unpacked)


def _all_parts(body: bytes, limit: int, unpacked: Callable[[bytes, int], tuple[bytes, bytes]]) -> bytes:
    """One part after another. `unpacked` takes what is left and the room for it; it gives a part, and what is left."""
    parts: list[bytes] = []
    room = limit
    while body:
        if len(parts) == PARTS_AT_MOST:
            msg = f"it has more than {PARTS_AT_MOST} parts"
            raise Corrupt(msg)
        part, body = unpacked(body, room)
        parts.append(part)
        room -= len(part)
    return b"".join(parts)


def _check_whole(unpacker: _Unpacker) -> None:
    if not unpacker.eof:
        msg = "it ends too early"
        raise Corrupt(msg)
