"""What a server of completions can do: asked of it at the start, by small requests, for most of them ignore in silence
what they don't know.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from quern.engine.base import GenerateRequest, Priority
from quern.engine.completions.client import CompletionServer
from quern.engine.completions.request import Abilities, Asked
from quern.engine.completions.stream import Counted, Generated
from quern.errors import EngineFailed
from quern.grammar.compiler import Vocabulary
from quern.sampling import SamplingParams

ODD_TEXT = "zyzzyva"
CACHED_TOKENS = 1024
"""A prompt of more blocks than one, whatever a server's blocks are."""
NOTHING = Abilities(grammars=False, salts=False, priorities=False, logprobs=False)


async def probe(server: CompletionServer, vocabulary: Vocabulary) -> Abilities:
    """What the server can do. It generates some tokens. Raises EngineFailed where it is of no use, with a sentence:
    it takes no ids, or tells none.
    """
    prompt = tuple(vocabulary.encode("Say a word: "))
    asked = Asked(GenerateRequest(prompt, SamplingParams(max_tokens=2, temperature=0)), frozenset())
    server.abilities = NOTHING
    await _ids(server, asked)
    long = replace(asked.request, sampling=SamplingParams(max_tokens=24, temperature=0))
    grammar = Asked(long, vocabulary.end_of_turn_ids, f'start: "{ODD_TEXT}"')
    text = await _try(server, grammar, NOTHING)
    obeyed = b"".join(vocabulary.token_bytes(token) for token in text or ()) == ODD_TEXT.encode()
    background = replace(asked, request=replace(asked.request, priority=Priority.BACKGROUND))
    priorities = await _try(server, background, replace(NOTHING, priorities=True)) is not None
    told = replace(asked, request=replace(asked.request, sampling=replace(asked.request.sampling, logprobs=1)))
    logprobs = await _try(server, told, replace(NOTHING, logprobs=True)) is not None
    return Abilities(
        grammars=obeyed, salts=await _keeps_salts_apart(server, vocabulary), priorities=priorities, logprobs=logprobs
    )


async def _keeps_salts_apart(server: CompletionServer, vocabulary: Vocabulary) -> bool:
    """Whether a prompt is found in the cache under its own salt and not under another; False where it doesn't tell."""
    server.abilities = replace(NOTHING, salts=True)
    word = tuple(vocabulary.encode(f"{ODD_TEXT} "))
    prompt = (word * (CACHED_TOKENS // len(word) + 1))[:CACHED_TOKENS]
    ours, other = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    request = GenerateRequest(prompt, SamplingParams(max_tokens=1, temperature=0))
    try:
        cached = [
            await _cached(server, Asked(replace(request, cache_salt=salt), frozenset())) for salt in (ours, ours, other)
        ]
    except EngineFailed:
        return False
    return cached[1] > 0 and cached[2] == 0


async def _try(server: CompletionServer, asked: Asked, abilities: Abilities) -> Sequence[int] | None:
    server.abilities = abilities
    try:
        return await _ids(server, asked)
    except EngineFailed:
        return None


async def _ids(server: CompletionServer, asked: Asked) -> Sequence[int]:
    async with aclosing(server.complete(asked)) as parts:
        return [token async for part in parts if isinstance(part, Generated) for token in part.ids]


async def _cached(server: CompletionServer, asked: Asked) -> int:
    async with aclosing(server.complete(asked)) as parts:
        return sum([part.cached async for part in parts if isinstance(part, Counted)])
