"""A client for llama-server's protocol: our own child process and a server somewhere else speak it alike."""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

import httpx2

from quern.engine.base import Logprob, Vector
from quern.engine.llamacpp.request import LLGUIDANCE
from quern.engine.llamacpp.stream import CompletionReader, Ended, Generated, Part, Progress, explain
from quern.engine.served.client import CONNECT_SECONDS, LOST, InferenceServer
from quern.errors import EngineFailed

ODD_TEXT = "zyzzyva"
NO_VECTOR = (
    "The inference server answered with something else than an embedding. If it is one at engine.url, start it with "
    "--embeddings --pooling last, or update it."
)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a running server holds. `context_length`: tokens of one slot."""

    vocabulary_size: int
    context_length: int
    slots: int


@dataclass(frozen=True, slots=True)
class NewTokens:
    """New ids, all of them, and their text. `logprob`: the only id's, where it was asked for and told. `exact`: these
    ids were drawn; else others that have the same text.
    """

    ids: tuple[int, ...]
    text: str
    logprob: Logprob | None = None
    exact: bool = True


class LlamaServer(InferenceServer):
    """A llama-server."""

    async def facts(self) -> ServerFacts:
        """What the server holds."""
        models = await self.read("/v1/models")
        props = await self.read("/props")
        meta = models["data"][0]["meta"]
        return ServerFacts(meta["n_vocab"], props["default_generation_settings"]["n_ctx"], props["total_slots"])

    async def keeps_to_grammars(self) -> bool:
        """Whether it is built with llguidance and keeps to a grammar; it generates some tokens.

        A server that is built without it aborts over a grammar in its notation. But of a JSON schema it makes a grammar
        itself, in the notation that it knows, and tells that.
        """
        body = {"prompt": [0], "n_predict": 16, "cache_prompt": False, "json_schema": {"const": ODD_TEXT}}
        self.check_open()
        try:
            response = await self._http.post("/completion", json=body)
        except httpx2.TransportError as error:
            raise ConnectionError(str(error)) from error
        try:
            answer = response.json()
            grammar, text = answer["generation_settings"]["grammar"], answer["content"]
            return str(grammar).startswith(LLGUIDANCE) and json.loads(text) == ODD_TEXT
        except (ValueError, LookupError, TypeError):
            return False

    async def processing(self, slot: int) -> bool:
        """Whether the slot is at work; False where the server doesn't tell."""
        try:
            slots = await self.read("/slots")
        except httpx2.HTTPStatusError:
            return False
        return any(entry["id"] == slot and entry["is_processing"] for entry in slots)

    async def busy_slots(self) -> int:
        """How many slots are at work; 0 where the server doesn't tell."""
        try:
            slots = await self.read("/slots")
        except httpx2.HTTPStatusError:
            return 0
        return sum(bool(entry["is_processing"]) for entry in slots)

    async def embed(self, ids: Sequence[int]) -> Vector:
        """The embedding of a sequence, its length 1, as a server gives it that was started for embeddings.

        llama-server is silent until it is computed, minutes for a long text on a slow machine. Who notices that the
        server is lost closes this client, which ends the wait.
        """
        self.check_open()
        patient = httpx2.Timeout(None, connect=CONNECT_SECONDS)
        body = {"input": list(ids), "encoding_format": "base64"}
        try:
            response = await self._http.post("/v1/embeddings", json=body, timeout=patient)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise ConnectionError(str(error)) from error
        except httpx2.HTTPError as error:
            raise EngineFailed(LOST) from error
        if response.status_code != 200:
            raise EngineFailed(_refusal(response))
        try:
            return _vector(response.json()["data"][0]["embedding"])
        except (ValueError, LookupError, TypeError) as error:
            raise EngineFailed(NO_VECTOR) from error

    async def complete(self, body: Mapping[str, object]) -> AsyncGenerator[Progress | NewTokens | Ended]:
        """Generate; `body` is `completion_request`'s. No id is missing: where the stream leaves some out, the text is
        tokenised again.
        """
        reader = CompletionReader()
        async with self.post("/completion", body) as response:
            if response.status_code != 200:
                await response.aread()
                raise EngineFailed(_refusal(response))
            async for chunk in response.aiter_raw():
                for part in reader.feed(chunk):
                    yield await self._with_ids(part)

    async def _with_ids(self, part: Part) -> Progress | NewTokens | Ended:
        if not isinstance(part, Generated):
            return part
        if not part.missing:
            return NewTokens((part.id,), part.text, part.logprob)
        ids = await self._tokenize(part.text)
        return NewTokens(ids, part.text, exact=len(ids) == part.missing + 1 and ids[-1] == part.id)

    async def _tokenize(self, text: str) -> tuple[int, ...]:
        """The canonical ids of a text; the model may have split it otherwise, but they are the same text."""
        body = {"content": text, "add_special": False, "parse_special": False}
        response = await self._http.post("/tokenize", json=body)
        response.raise_for_status()
        return tuple(response.json()["tokens"])


def _vector(text: str) -> Vector:
    """From base64 of little-endian float32. Raises ValueError."""
    vector = array("f", base64.b64decode(text, validate=True))
    if sys.byteorder != "little":
        vector.byteswap()
    return vector


def _refusal(response: httpx2.Response) -> str:
    try:
        return explain(response.json())
    except (ValueError, LookupError, TypeError):
        return f"The inference server refused this request with the HTTP status {response.status_code}."
