"""What may be said of a key, and how that changes it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from quern.access.principal import ANONYMOUS_OWNER, LOCAL_NAME
from quern.errors import InvalidRequest
from quern.records import KeyLimits, KeyRecord, KeyRole

LONGEST_NAME = 64
LONGEST_NOTE = 1000


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """New values for a key; what is None stays. `limits`: only those that are not None are changed.

    `removed`: of `expires_at` and the limits, by their names, those that the key has no value of its own for any more.
    """

    name: str | None = None
    note: str | None = None
    role: KeyRole | None = None
    weight: float | None = None
    expires_at: datetime | None = None
    limits: KeyLimits | None = None
    removed: frozenset[str] = frozenset()

    def check(self) -> None:
        """Raises InvalidRequest for what no key can have. `check_name` looks at the name."""
        note = self.note
        if note is not None and (len(note) > LONGEST_NOTE or not note.isprintable()):
            raise InvalidRequest(
                f"A note has at most {LONGEST_NOTE} characters, all of them such as can be printed. Write another.",
                field="note",
            )
        if self.weight is not None and not 0.01 <= self.weight <= 100:
            raise InvalidRequest("A key's weight is from 0.01 to 100; 1 is the usual one.", field="weight")
        if self.expires_at is not None:
            _check_time(self.expires_at)
        given = self.limits or KeyLimits()
        for field in fields(KeyLimits):
            value = getattr(given, field.name)
            if value is not None and value < 0:
                raise InvalidRequest(f"The limit {field.name} is a number from 0, which is no limit.", field=field.name)

    def applied(self, key: KeyRecord) -> KeyRecord:
        """The key with these values."""
        simple = {name: value for name, value in self._values().items() if name in _SIMPLE}
        limits = {name: value for name, value in self._values().items() if name in _LIMITS}
        return replace(key, **simple, limits=replace(key.limits, **limits))

    def told(self) -> dict[str, Any]:
        """What the log of administrative acts says of them, as JSON."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in self._values().items()
        }

    def _values(self) -> dict[str, Any]:
        """What changes, by name; None is what is removed."""
        limits = self.limits or KeyLimits()
        given = {name: getattr(self, name) for name in _SIMPLE} | {name: getattr(limits, name) for name in _LIMITS}
        return {name: value for name, value in given.items() if value is not None or name in self.removed}


def check_name(name: str, others: Iterable[KeyRecord]) -> None:
    """Raises InvalidRequest for a name that no key can have, or not beside the others, revoked ones among them."""
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidRequest(
            f"A key's name has 1 to {LONGEST_NAME} characters that can be printed. Choose another.", field="name"
        )
    if "/" in name or name != name.strip() or name in {".", ".."}:
        raise InvalidRequest(
            "A key's name has no slash in it, and no blank at its ends, since it stands in paths. Choose another.",
            field="name",
        )
    if _alike(name) in {ANONYMOUS_OWNER, LOCAL_NAME}:
        raise InvalidRequest(f"The name {name!r} is the server's own. Choose another.", field="name")
    alike = _alike(name)
    if any(name == key.id or (key.revoked_at is None and _alike(key.name) == alike) for key in others):
        raise InvalidRequest(
            f"There is a key {name!r} already, or one whose name looks the same. Choose another name, or give that "
            f"one another secret with `quern keys rotate`.",
            field="name",
        )


def _check_time(at: datetime) -> None:
    try:
        at.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(
            "A key expires between the years 1 and 9999, UTC. Choose another time.", field="expires_at"
        ) from None


def _alike(name: str) -> str:
    """The same for names that people take for one another: in other letters' forms, other cases, other blanks.

    Source: Unicode Standard Annex 31, "Immutable identifiers and case": NFKC with case folding.
    """
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())


_SIMPLE = ("name", "note", "role", "weight", "expires_at")
_LIMITS = tuple(field.name for field in fields(KeyLimits))
