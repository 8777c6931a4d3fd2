"""Keys: made, changed, and told from each other.

All keys are in memory, so that a request costs no look into the database: a hash and a comparison. Changes go to the
database first. Other processes' changes (of a server that shares the database, of a restored one) are seen at the next
`reload`, which happens every `REFRESH_SECONDS`, when the times of keys' last uses are saved too.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from quern.access.principal import ANONYMOUS, ANONYMOUS_OWNER, LOCAL_NAME, Principal, principal_of
from quern.access.secrets import PREFIX, PresentedKey, new_hash_key, new_key
from quern.errors import InvalidRequest, KeyNotFound, StoreError, Unauthorized
from quern.records import AuditEntry, KeyLimits, KeyRecord, KeyRole
from quern.store.keys import KeyStore

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 30.0
LONGEST_NAME = 64
LONGEST_NOTE = 1000
HOW_TO_SEND = "Send one as `Authorization: Bearer …` or `x-api-key: …`; whoever runs this server makes them with "
NO_KEY = f"This server needs a key. {HOW_TO_SEND}`quern keys create NAME`."
WRONG_KEY = (
    f"This key is not known here: it was mistyped, revoked, has expired, or is another server's. {HOW_TO_SEND}"
    f"`quern keys create NAME`."
)


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """New values for a key; what is None stays. `limits`: only those that are not None are changed."""

    name: str | None = None
    note: str | None = None
    role: KeyRole | None = None
    weight: float | None = None
    expires_at: datetime | None = None
    limits: KeyLimits | None = None


class Keys:
    """A database's keys. `open_without_keys`: whether everybody may come in as long as there is none.
    `anonymous`: whether whoever brings no key may always. With `share_cache` prefixes are reused between keys.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        open_without_keys: bool,
        anonymous: bool,
        share_cache: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._open_without_keys = open_without_keys
        self._anonymous = anonymous
        self._share_cache = share_cache
        self._clock = clock
        self._hash_key = b""
        self._keys: dict[str, KeyRecord] = {}
        self._uses: dict[str, datetime] = {}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Know the keys while the block lasts. Raises StoreError."""
        self._hash_key = await self._store.hash_key(new_hash_key())
        await self.reload()
        refresh = asyncio.get_running_loop().create_task(self._refresh())
        try:
            yield
        finally:
            refresh.cancel()
            await asyncio.wait([refresh])
            with suppress(StoreError):  # it is only when keys were last used, and the log has it
                await self._save_uses()

    @property
    def closed(self) -> bool:
        """Whether nobody comes in without a key."""
        return not self._anonymous and (bool(self._keys) or not self._open_without_keys)

    def authenticate(self, *presented: str) -> Principal:
        """Whose a request is that came with these texts for keys, most often one. The first that is a valid key counts.

        Raises Unauthorized.
        """
        parsed = [PresentedKey.parse(text) for text in presented]
        for key in filter(None, parsed):
            found = self._valid(key)
            if found is not None:
                self._uses[found.id] = self._clock()
                return principal_of(found, share_cache=self._share_cache)
        if self.closed:
            raise Unauthorized(WRONG_KEY if any(presented) else NO_KEY)
        if self._keys and any(text.startswith(f"{PREFIX}_") for text in presented):
            raise Unauthorized(WRONG_KEY)  # not somebody's who may do without: what they made would not be found again
        return ANONYMOUS

    async def reload(self) -> None:
        """See what others changed in the database. Raises StoreError."""
        self._keys = {key.id: key for key in await self._store.all()}

    def all(self) -> list[KeyRecord]:
        """Every key, the oldest first, revoked ones too."""
        return [replace(key, last_used_at=self._uses.get(key.id, key.last_used_at)) for key in self._keys.values()]

    def find(self, wanted: str) -> KeyRecord:
        """The key of this id, or else the one that has this name and is not revoked. Raises KeyNotFound."""
        if wanted in self._keys:
            return self._keys[wanted]
        named = [key for key in self._keys.values() if key.name == wanted and key.revoked_at is None]
        if not named:
            raise KeyNotFound(f"There is no key {wanted[:LONGEST_NAME]!r}. `quern keys list` shows them all.")
        return named[0]

    async def create(self, name: str, wanted: KeyChanges, actor: str) -> tuple[KeyRecord, str]:
        """A new key, and its text, which nobody can see again. Raises InvalidRequest and StoreError."""
        self._check(wanted, name)
        presented = new_key()
        key = KeyRecord(presented.id, name, KeyRole.USER, presented.digest(self._hash_key), self._clock())
        key = _changed(key, replace(wanted, name=None))
        await self._store.create(key, self._entry(actor, "create", key, _told(wanted)))
        self._keys[key.id] = key
        return key, str(presented)

    async def change(self, wanted: str, changes: KeyChanges, actor: str) -> KeyRecord:
        """Change a key's values. Raises KeyNotFound, InvalidRequest and StoreError."""
        key = self.find(wanted)
        self._check(changes, changes.name, but=key.id)
        return await self._keep(_changed(key, changes), "change", actor, _told(changes))

    async def revoke(self, wanted: str, actor: str) -> KeyRecord:
        """Let a key open nothing from now on. Turns that run go on. Raises KeyNotFound and StoreError."""
        key = self.find(wanted)
        return await self._keep(replace(key, revoked_at=key.revoked_at or self._clock()), "revoke", actor)

    async def rotate(self, wanted: str, actor: str) -> tuple[KeyRecord, str]:
        """Another secret for the same key, and its text; the old one opens nothing from now on. What the key made stays
        its own. Raises KeyNotFound, InvalidRequest for a revoked key, and StoreError.
        """
        key = self.find(wanted)
        if key.revoked_at is not None:
            raise InvalidRequest(
                f"The key {key.name!r} is revoked. Make another one with `quern keys create`.", field="key"
            )
        presented = new_key(key.id)
        changed = replace(key, digest=presented.digest(self._hash_key))
        return await self._keep(changed, "rotate", actor), str(presented)

    async def adopt(self, wanted: str, actor: str, owner: str = ANONYMOUS_OWNER) -> int:
        """Give the conversations that an owner has to a key; how many they were. Raises KeyNotFound and StoreError."""
        key = self.find(wanted)
        return await self._store.adopt(owner, key.id, self._entry(actor, "adopt", key, {"from": owner}))

    async def audit(self, limit: int) -> list[AuditEntry]:
        """The latest administrative acts, the newest first. Raises StoreError."""
        return await self._store.audit(limit)

    async def _keep(self, key: KeyRecord, action: str, actor: str, details: dict[str, Any] | None = None) -> KeyRecord:
        await self._store.change(key, self._entry(actor, action, key, details or {}))
        self._keys[key.id] = key
        return key

    def _valid(self, presented: PresentedKey) -> KeyRecord | None:
        """The key that a text is. An unknown one takes as long as a wrong one."""
        key = self._keys.get(presented.id)
        digest = presented.digest(self._hash_key)
        same = hmac.compare_digest(digest, key.digest if key is not None else bytes(len(digest)))
        if key is None or not same or key.revoked_at is not None:
            return None
        return key if key.expires_at is None or self._clock() < key.expires_at else None

    def _check(self, changes: KeyChanges, name: str | None, but: str = "") -> None:
        if name is not None:
            self._check_name(name, but)
        if changes.note is not None and len(changes.note) > LONGEST_NOTE:
            raise InvalidRequest(f"A note has at most {LONGEST_NOTE} characters. Shorten it.", field="note")
        if changes.weight is not None and not 0.01 <= changes.weight <= 100:
            raise InvalidRequest("A key's weight is from 0.01 to 100; 1 is the usual one.", field="weight")
        given = changes.limits or KeyLimits()
        for field in fields(KeyLimits):
            value = getattr(given, field.name)
            if value is not None and value < 0:
                raise InvalidRequest(f"The limit {field.name} is a number from 0, which is no limit.", field=field.name)

    def _check_name(self, name: str, but: str) -> None:
        if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise InvalidRequest(
                f"A key's name has 1 to {LONGEST_NAME} characters that can be printed. Choose another.", field="name"
            )
        if name in {ANONYMOUS_OWNER, LOCAL_NAME}:
            raise InvalidRequest(f"The name {name!r} is the server's own. Choose another.", field="name")
        taken = (key for key in self._keys.values() if key.revoked_at is None and key.id != but)
        if name in self._keys or any(key.name == name for key in taken):
            raise InvalidRequest(
                f"There is a key {name!r} already. Choose another name, or give that one another secret with "
                f"`quern keys rotate`.",
                field="name",
            )

    def _entry(self, actor: str, action: str, key: KeyRecord, details: dict[str, Any]) -> AuditEntry:
        log.info("key_administered", action=action, key=key.id, name=key.name, actor=actor)
        return AuditEntry(self._clock(), actor, f"keys.{action}", key.id, {"name": key.name, **details})

    async def _save_uses(self) -> None:
        if not self._uses:
            return
        uses, self._uses = self._uses, {}
        try:
            await self._store.note_uses(uses)
        except StoreError:
            self._uses = {**uses, **self._uses}
            raise

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self._save_uses()
                await self.reload()
            except StoreError as error:
                log.warning("keys_not_refreshed", error=str(error))


def _changed(key: KeyRecord, changes: KeyChanges) -> KeyRecord:
    given = {name: value for name in _SIMPLE if (value := getattr(changes, name)) is not None}
    return replace(key, **given, limits=_limits(key.limits, changes.limits or KeyLimits()))


def _limits(kept: KeyLimits, changes: KeyLimits) -> KeyLimits:
    given = {name: value for name in _LIMITS if (value := getattr(changes, name)) is not None}
    return replace(kept, **given)


def _told(changes: KeyChanges) -> dict[str, Any]:
    """What the log of administrative acts says of changes, as JSON."""
    told = {name: getattr(changes, name) for name in _SIMPLE if getattr(changes, name) is not None}
    if "expires_at" in told:
        told["expires_at"] = told["expires_at"].isoformat()
    limits = changes.limits or KeyLimits()
    return {**told, **{name: value for name in _LIMITS if (value := getattr(limits, name)) is not None}}


_SIMPLE = ("name", "note", "role", "weight", "expires_at")
_LIMITS = tuple(field.name for field in fields(KeyLimits))
