"""The alphabet of byte-level BPE: each of the 256 bytes is written as one printable character.

Source: `bytes_to_unicode` of OpenAI's GPT-2 encoder, which every GGUF file with tokenizer model `gpt2` follows.
"""

from __future__ import annotations


def _alphabet() -> list[str]:
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    substitutes = iter(range(256, 512))
    return [chr(byte if byte in printable else next(substitutes)) for byte in range(256)]


ALPHABET = _alphabet()
"""The character of each byte."""

_BYTES = {character: bytes([byte]) for byte, character in enumerate(ALPHABET)}


def to_bytes(token: str) -> bytes:
    """The bytes that a token's text stands for; characters outside the alphabet stand for themselves."""
    return b"".join(_BYTES.get(character) or character.encode() for character in token)
