"""A client for servers that complete token ids over OpenAI's protocol."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx2

from quern.engine.completions.request import ALL, Asked, completion_body
from quern.engine.completions.stream import CompletionReader, Part, failure
from quern.engine.served.client import InferenceServer
from quern.errors import EngineFailed, ServerLost

BUSY = frozenset({429, 502, 503, 504})
"""Statuses of a server, or of a router before it, that can't answer now; another one may."""
COMPLETIONS = "/v1/completions"
CACHE_CONFIG = re.compile(r"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
CUT_SHORT = "The inference server ended the answer without saying why, so this answer was lost. Ask again."


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a running server holds. `model`: its name there. `context_length`: tokens of a sequence. `kv_tokens`: of the
    cache that all share; None where it doesn't tell.
    """

    model: str
    context_length: int
    kv_tokens: int | None = None


class Accepted:
    """The server has taken the request, and computes its prompt or lets it wait."""


ACCEPTED = Accepted()


class CompletionSource(Protocol):
    """Where completions come from: a server, or several of them."""

    def complete(self, asked: Asked) -> AsyncGenerator[Accepted | Part]:
        """Generate. Closing it cancels, which the server notices at once.

        Raises ServerLost where the server is to blame, EngineFailed where the answer is refused or lost, and
        ConnectionError where the server can't be reached.
        """
        ...


class CompletionServer(InferenceServer):
    """One server. `model`: its name there, once `facts` has asked; `abilities`: what it can do, as far as is known."""

    model = ""
    abilities = ALL

    async def facts(self) -> ServerFacts:
        """What the server holds."""
        (model, *_) = (await self.read("/v1/models"))["data"]
        self.model = model["id"]
        return ServerFacts(self.model, int(model["max_model_len"]), await self._kv_tokens())

    async def complete(self, asked: Asked, headers: Mapping[str, str] | None = None) -> AsyncGenerator[Accepted | Part]:
        """See `CompletionSource.complete`."""
        reader = CompletionReader(asked.end_ids | asked.request.stop_token_ids, asked.request.sampling.logprobs or 0)
        async with self.post(COMPLETIONS, completion_body(asked, self.model, self.abilities), headers) as response:
            if response.status_code != 200:
                await response.aread()
                raise refusal(response)
            yield ACCEPTED
            async for chunk in response.aiter_bytes():
                for part in reader.feed(chunk):
                    yield part
        if not reader.done:
            raise ServerLost(CUT_SHORT)

    async def _kv_tokens(self) -> int | None:
        """vLLM tells its cache in its metrics, as labels."""
        response = await self.get("/metrics")
        found = CACHE_CONFIG.search(response.text) if response.status_code == 200 else None
        labels = dict(LABEL.findall(found[1])) if found else {}
        try:
            told = labels.get("kv_cache_size_tokens", "")
            return int(told) if told.isdecimal() else int(labels["num_gpu_blocks"]) * int(labels["block_size"])
        except (KeyError, ValueError):
            return None


def refusal(response: httpx2.Response) -> EngineFailed:
    """What a response means that is none."""
    try:
        failed = failure(response.json())
    except (ValueError, LookupError, TypeError, AttributeError):
        failed = EngineFailed(f"The inference server refused this request with the HTTP status {response.status_code}.")
    return ServerLost(str(failed)) if response.status_code in BUSY else failed
