"""Keys: made, changed, and told from each other.

All keys are in memory, so that a request costs no look into the database: a hash and a comparison. Changes go to the
database first, one after the other, each from what the database has by then. Other processes' changes (of a server that
shares the database, of a restored one) are seen at the next `reload`, which happens every `REFRESH_SECONDS`, when the
times of keys' last uses are saved too.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from quern.access.key_changes import LONGEST_NAME, KeyChanges, check_name
from quern.access.principal import ANONYMOUS, ANONYMOUS_OWNER, Principal, principal_of
from quern.access.secrets import PREFIX, PresentedKey, new_hash_key, new_key
from quern.errors import InvalidRequest, KeyNotFound, StoreError, Unauthorized
from quern.records import AuditEntry, KeyRecord, KeyRole
from quern.store.keys import KeyStore
from quern.store.uninterrupted import uninterrupted

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 30.0
HOW_TO_SEND = "Send one as `Authorization: Bearer …` or `x-api-key: …`; whoever runs this server makes them with "
NO_KEY = f"This server needs a key. {HOW_TO_SEND}`quern keys create NAME`."
WRONG_KEY = (
    f"This key is not known here: it was mistyped, revoked, has expired, or is another server's. {HOW_TO_SEND}"
    f"`quern keys create NAME`."
)


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
        self._changing = asyncio.Lock()

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
        async with self._changing:
            await self._read()

    def current(self, principal: Principal) -> Principal:
        """What somebody's key stands for by now, which it may not have done when a request came."""
        key = self._keys.get(principal.owner)
        return principal_of(key, share_cache=self._share_cache) if key is not None else principal

    def principal(self, owner: str) -> Principal | None:
        """Whom an owner's id stands for, who made something earlier; None where that is a key that is not valid now."""
        if owner == ANONYMOUS.owner:
            return ANONYMOUS
        key = self._keys.get(owner)
        return principal_of(key, share_cache=self._share_cache) if key is not None and self._usable(key) else None

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

    @uninterrupted
    async def create(self, name: str, wanted: KeyChanges, actor: str) -> tuple[KeyRecord, str]:
        """A new key, and its text, which nobody can see again. Raises InvalidRequest and StoreError."""
        async with self._changing:
            await self._read()
            wanted = replace(wanted, removed=frozenset())  # a new key has nothing that could be taken away
            wanted.check()
            check_name(name, self._keys.values())
            presented = new_key()
            key = KeyRecord(presented.id, name, KeyRole.USER, presented.digest(self._hash_key), self._clock())
            key = replace(wanted, name=None).applied(key)
            await self._store.create(key, self._entry(actor, "create", key, wanted.told()))
            self._keys[key.id] = key
        _log_act("create", key, actor)
        return key, str(presented)

    @uninterrupted
    async def change(self, wanted: str, changes: KeyChanges, actor: str) -> KeyRecord:
        """Change a key's values. Raises KeyNotFound, InvalidRequest and StoreError."""
        async with self._changing:
            await self._read()
            key = self.find(wanted)
            changes.check()
            if changes.name is not None:
                check_name(changes.name, (one for one in self._keys.values() if one.id != key.id))
            return await self._keep(key, changes.applied(key), "change", actor, changes.told())

    @uninterrupted
    async def revoke(self, wanted: str, actor: str) -> KeyRecord:
        """Let a key open nothing from now on. Turns that run go on. Raises KeyNotFound and StoreError."""
        async with self._changing:
            await self._read()
            key = self.find(wanted)
            return await self._keep(key, replace(key, revoked_at=key.revoked_at or self._clock()), "revoke", actor)

    @uninterrupted
    async def rotate(self, wanted: str, actor: str) -> tuple[KeyRecord, str]:
        """Another secret for the same key, and its text; the old one opens nothing from now on. What the key made stays
        its own. Raises KeyNotFound, InvalidRequest for a revoked key, and StoreError.
        """
        async with self._changing:
            await self._read()
            key = self._find_valid(wanted)
            presented = new_key(key.id)
            changed = replace(key, digest=presented.digest(self._hash_key))
            return await self._keep(key, changed, "rotate", actor), str(presented)

    @uninterrupted
    async def adopt(self, wanted: str, actor: str, owner: str = ANONYMOUS_OWNER) -> int:
        """Give the conversations that an owner has to a key; how many they were. Raises KeyNotFound, InvalidRequest for
        a revoked key, and StoreError.
        """
        async with self._changing:
            await self._read()
            key = self._find_valid(wanted)
            moved = await self._store.adopt(owner, key.id, self._entry(actor, "adopt", key, {"from": owner}))
        _log_act("adopt", key, actor)
        return moved

    async def audit(self, limit: int) -> list[AuditEntry]:
        """The latest administrative acts, the newest first. Raises StoreError."""
        return await self._store.audit(limit)

    async def _read(self) -> None:
        self._keys = {key.id: key for key in await self._store.all()}

    async def _keep(
        self, before: KeyRecord, key: KeyRecord, action: str, actor: str, details: dict[str, Any] | None = None
    ) -> KeyRecord:
        await self._store.change(before, key, self._entry(actor, action, key, details or {}))
        self._keys[key.id] = key
        _log_act(action, key, actor)
        return key

    def _find_valid(self, wanted: str) -> KeyRecord:
        key = self.find(wanted)
        if key.revoked_at is not None:
            raise InvalidRequest(
                f"The key {key.name!r} is revoked. Make another one with `quern keys create`.", field="key"
            )
        return key

    def _valid(self, presented: PresentedKey) -> KeyRecord | None:
        """The key that a text is. An unknown one takes as long as a wrong one."""
        key = self._keys.get(presented.id)
        digest = presented.digest(self._hash_key)
        same = hmac.compare_digest(digest, key.digest if key is not None else bytes(len(digest)))
        return key if key is not None and same and self._usable(key) else None

    def _usable(self, key: KeyRecord) -> bool:
        """Whether a key is neither revoked nor past its time."""
        return key.revoked_at is None and (key.expires_at is None or self._clock() < key.expires_at)

    def _entry(self, actor: str, action: str, key: KeyRecord, details: dict[str, Any]) -> AuditEntry:
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


def _log_act(action: str, key: KeyRecord, actor: str) -> None:
    log.info("key_administered", action=action, key=key.id, name=key.name, actor=actor)
