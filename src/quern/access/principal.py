"""Who asks: what a request's key stands for."""

from __future__ import annotations

from dataclasses import dataclass, field

from quern.records import KeyLimits, KeyRecord, KeyRole

ANONYMOUS_OWNER = "anonymous"
LOCAL_NAME = "local"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `owner`: whose conversations it sees: a key's id, or `anonymous`. `name`: for people, logs and metrics.
    `weight`: its part where the server is shared. `cache_salt`: prompts' prefixes are reused among those who have the
    same.
    """

    owner: str
    name: str
    role: KeyRole
    weight: float = 1.0
    cache_salt: str = ""
    limits: KeyLimits = field(default_factory=KeyLimits)

    @property
    def is_admin(self) -> bool:
        """Whether it may run the server."""
        return self.role is KeyRole.ADMIN


ANONYMOUS = Principal(ANONYMOUS_OWNER, ANONYMOUS_OWNER, KeyRole.USER, cache_salt=ANONYMOUS_OWNER)
"""Whoever comes without a key, where none is needed."""

LOCAL = Principal(ANONYMOUS_OWNER, LOCAL_NAME, KeyRole.ADMIN, cache_salt=ANONYMOUS_OWNER)
"""Whoever speaks through the control socket: the file system has let them."""


def principal_of(key: KeyRecord, *, share_cache: bool) -> Principal:
    """What a valid key stands for. With `share_cache` prefixes are reused between keys."""
    return Principal(key.id, key.name, key.role, key.weight, "" if share_cache else key.id, key.limits)
