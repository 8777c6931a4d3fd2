"""Ways to damage a model file; which and where is the random generator's choice."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any, cast

ODD_NUMBERS = [0, 1, 2, 31, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
ODD_JSON: list[Any] = [
    *ODD_NUMBERS, -1, 1.5, -0.0, 1e308, True, None, "", "x" * 5000, "../x", "\0", [], {}, [[]], [0] * 1000, {"": None},
]  # fmt: skip
ODD_TEXTS = [
    b"", b"{", b"[]", b"null", b'"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"{}{}", b"[" * 50_000, b'{"a":' * 50_000,
    b"1e999", b"-", b'{"a":1,"a":1}', b'"\\ud800"', b"NaN", b"\0" * 64,
]  # fmt: skip

Mutation = Callable[[random.Random, bytes, int], bytes]


def truncated(rng: random.Random, data: bytes, header: int) -> bytes:
    """The beginning only; mostly it ends within the header."""
    return data[: rng.randrange(header if rng.random() < 0.7 else len(data))]


def flipped(rng: random.Random, data: bytes, header: int) -> bytes:
    """Some bits of the header the other way."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        changed[rng.randrange(header)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwritten(rng: random.Random, data: bytes, header: int) -> bytes:
    """A count, offset, shape, length or piece of text in the header replaced with an odd number."""
    at, size = rng.randrange(header), rng.choice([1, 4, 8, 8])
    number = rng.choice(ODD_NUMBERS) & ((1 << 8 * size) - 1)
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


def swapped(rng: random.Random, data: bytes, header: int) -> bytes:
    """Two sections of the header in each other's place."""
    a, b, c, d = sorted(rng.randrange(header) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def repeated(rng: random.Random, data: bytes, header: int) -> bytes:
    """A section of the header twice."""
    begin, end = sorted(rng.randrange(header) for _ in range(2))
    return data[:end] + data[begin:end] + data[end:]


def removed(rng: random.Random, data: bytes, header: int) -> bytes:
    """A section of the header left out."""
    begin, end = sorted(rng.randrange(header) for _ in range(2))
    return data[:begin] + data[end:]


def noisy(rng: random.Random, data: bytes, header: int) -> bytes:
    """Random bytes over a section of the header."""
    at = rng.randrange(header)
    noise = rng.randbytes(rng.randrange(1, 64))
    return data[:at] + noise + data[at + len(noise) :]


BINARY: list[Mutation] = [truncated, flipped, overwritten, overwritten, swapped, repeated, removed, noisy]


def damaged_bytes(rng: random.Random, data: bytes, header: int) -> bytes:
    """One to three mutations of a file whose header has that many bytes."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if data:
            data = rng.choice(BINARY)(rng, data, min(header, len(data)))
    return data


def damaged_json(rng: random.Random, text: bytes, header: int) -> bytes:
    """A JSON document, all of it `header`, with a value, a key or its text damaged."""
    if rng.random() < 0.1:
        return rng.choice(ODD_TEXTS)
    if rng.random() < 0.3:
        return damaged_bytes(rng, text, header)
    document = json.loads(text)
    for _ in range(rng.choice([1, 1, 2, 4])):
        _damage_one_value(rng, document)
    return json.dumps(document).encode()


def _damage_one_value(rng: random.Random, document: Any) -> None:
    places = list(_places(document))
    if not places:
        document["x"] = copy.deepcopy(rng.choice(ODD_JSON))
        return
    container, key = rng.choice(places)
    choice = rng.random()
    if choice < 0.6 or not isinstance(key, str):
        container[key] = copy.deepcopy(rng.choice(ODD_JSON))
        return
    value = container.pop(key)
    if choice < 0.8:
        container[rng.choice(["x", "", "\n", "\ud800", key + ".weight", key.upper()])] = value


def _places(container: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in the document with each of its keys or indices."""
    keys: list[Any] = []
    if isinstance(container, dict):
        keys = list(cast("dict[str, Any]", container))
    elif isinstance(container, list):
        keys = list(range(len(cast("list[Any]", container))))
    for key in keys:
        yield container, key
        yield from _places(container[key])


def damaged_safetensors(rng: random.Random, data: bytes, header: int) -> bytes:
    """A safetensors file with bytes of its header damaged, or with another header whose length is right."""
    if rng.random() < 0.4:
        return damaged_bytes(rng, data, header)
    text = damaged_json(rng, data[8:header], header - 8)
    return len(text).to_bytes(8, "little") + text + data[header:]
