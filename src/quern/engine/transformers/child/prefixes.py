"""Prompts' prefixes, computed once and used again by those with the same cache salt.

Transformers' paged cache knows a full block by a digest of the one before it and of its own ids, alike for everybody:
who measures times could tell what others have sent, and 64 bits without a key let somebody look for another prefix with
the same digest. So the digest is another one here, with the salt as its key. Source of what is replaced: Transformers
5.19, `continuous_batching/cache.py` and `cache_allocators/cache_allocator.py`.
"""

from __future__ import annotations

import importlib
from array import array
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

SALT = "cache_salt"
"""Under which name a request of the manager's has it."""
DIGEST_BYTES = 16
ALLOCATOR = "transformers.generation.continuous_batching.cache_allocators.cache_allocator"


def salted_digest(salt: str, parent: int | None, tokens: Sequence[int]) -> int:
    """A block's digest, from its parent's (None: it is the first) and from its own ids."""
    key = blake2b(salt.encode(), digest_size=32).digest()
    before = b"" if parent is None else parent.to_bytes(DIGEST_BYTES, "little")
    return int.from_bytes(
        blake2b(before + array("i", tokens).tobytes(), key=key, digest_size=DIGEST_BYTES).digest(), "little"
    )


class SaltedPrefixes:
    """Puts salts into a cache's digests. `salt_of`: a request's; `on_match` hears how much of its prompt was there.

    For one cache, which only one thread uses.
    """

    def __init__(self, cache: Any, salt_of: Callable[[str], str], on_match: Callable[[str, int], None]) -> None:
        self._cache, self._search = cache, cache.search_prefix_match
        self._salt_of = salt_of
        self._on_match = on_match
        self._salt = ""
        cache.search_prefix_match, cache.mark_complete_blocks = self._salted_search, self._salted_mark
        importlib.import_module(ALLOCATOR).__dict__["compute_block_hash"] = self._digest

    def _salted_search(self, request_id: str, prompt_ids: list[int]) -> int:
        self._salt = self._salt_of(request_id)
        found = self._search(request_id, prompt_ids)
        self._on_match(request_id, found)
        return found

    def _salted_mark(self, state: Any, complete_blocks: dict[str, int]) -> None:
        """Register the blocks that a request's step has filled, also where that was its last one: the cache itself
        leaves those out, and so the whole prompt of an answer of one token.
        """
        if self._cache.allow_block_sharing and complete_blocks:
            self._salt = state.logit_processor_kwargs[SALT]
            ids = state.initial_tokens + state.generated_tokens
            for name, count in complete_blocks.items():
                self._cache.cache_allocators[name].mark_complete_blocks(state.request_id, ids, count)

    def _digest(self, parent: int | None, tokens: Sequence[int]) -> int:
        return salted_digest(self._salt, parent, tokens)
