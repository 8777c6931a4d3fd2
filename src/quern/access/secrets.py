"""What a key looks like, and what is kept of it.

`quern_<id>_<secret>`: the id names the row, the secret has 256 random bits. A secret that is random can't be guessed
from its hash, so none that is made slow on purpose is needed (NIST SP 800-63B, 5.1.2.2 "look-up secrets": at least 112
bits). The hash is keyed with a value of this database's own, so that a row that somebody else's server wrote, or that
is copied into this one, opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

PREFIX = "quern"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_CHARACTERS = 10
SECRET_CHARACTERS = 43
"""log62(2**256) is 42.99."""

SECRET_BITS = 256
LONGEST_PRESENTED = 200
KEY = re.compile(rf"{PREFIX}_([0-9A-Za-z]{{{ID_CHARACTERS}}})_([0-9A-Za-z]{{{SECRET_CHARACTERS}}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A text of a key's form. It may be nobody's."""

    id: str
    secret: str

    @classmethod
    def parse(cls, text: str) -> PresentedKey | None:
        """None for a text of any other form."""
        match = KEY.fullmatch(text) if len(text) <= LONGEST_PRESENTED else None
        return cls(match[1], match[2]) if match else None

    def __str__(self) -> str:
        return f"{PREFIX}_{self.id}_{self.secret}"

    def __repr__(self) -> str:
        return f"PresentedKey({self.id!r}, …)"

    def digest(self, hash_key: bytes) -> bytes:
        """What is kept: 32 bytes, HMAC-SHA-256 of the id and the secret."""
        return hmac.digest(hash_key, f"{self.id}_{self.secret}".encode(), hashlib.sha256)


def new_key(key_id: str | None = None) -> PresentedKey:
    """A key that nobody has yet; with `key_id` another secret for that one."""
    number = secrets.randbits(SECRET_BITS)
    return PresentedKey(key_id or _new_id(), _base62(number))


def new_hash_key() -> bytes:
    """A value to key a database's hashes with."""
    return secrets.token_bytes(32)


def _new_id() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(ID_CHARACTERS))


def _base62(number: int) -> str:
    digits: list[str] = []
    for _ in range(SECRET_CHARACTERS):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(digits)
