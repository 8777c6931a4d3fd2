"""A client for llama-server's protocol: our own child process and a server somewhere else speak it alike."""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from quern.engine.base import Logprob, Vector
from quern.engine.llamacpp.request import LLGUIDANCE
from quern.engine.llamacpp.stream import CompletionReader, Ended, Generated, Part, Progress, explain
from quern.errors import EngineFailed

SPARE_CONNECTIONS = 8
CONNECT_SECONDS = 10.0
# llama-server writes at least a comment line every 30 s, however long a step takes: longer silence means that it hangs
# or that the network is gone. Of a server that hangs the supervisor knows earlier.
SILENCE_SECONDS = 300.0
PROBE_SECONDS = 10.0
ODD_TEXT = "zyzzyva"
NO_VECTOR = (
    "The inference server answered with something else than an embedding. If it is one at engine.url, start it with "
    "--embeddings --pooling last, or update it."
)
LOST = "The connection to the inference server broke while it was answering, so this answer was lost. Ask again."


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


class LlamaServer:
    """One server at `url`. Making one reads certificates, so make it in a thread.

    Raises ConnectionError where nothing answers, PermissionError where the key is wrong and EngineFailed where a
    running answer is lost.
    """

    def __init__(self, url: str, api_key: str, *, connections: int, trust_env: bool) -> None:
        # A connection that llama-server closes after a while of silence would fail the next request: use none twice.
        limits = httpx2.Limits(max_connections=connections + SPARE_CONNECTIONS, max_keepalive_connections=0)
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS, pool=None),
            limits=limits,
            trust_env=trust_env,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def facts(self) -> ServerFacts:
        """What the server holds."""
        models = await self._read("/v1/models")
        props = await self._read("/props")
        meta = models["data"][0]["meta"]
        return ServerFacts(meta["n_vocab"], props["default_generation_settings"]["n_ctx"], props["total_slots"])

    async def keeps_to_grammars(self) -> bool:
        """Whether it is built with llguidance and keeps to a grammar; it generates some tokens.

        A server that is built without it aborts over a grammar in its notation. But of a JSON schema it makes a grammar
        itself, in the notation that it knows, and tells that.
        """
        body = {"prompt": [0], "n_predict": 16, "cache_prompt": False, "json_schema": {"const": ODD_TEXT}}
        self._check_open()
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

    async def ready(self) -> bool:
        """Whether it has loaded its model."""
        return (await self._get("/health")).status_code == 200

    async def processing(self, slot: int) -> bool:
        """Whether the slot is at work; False where the server doesn't tell."""
        try:
            slots = await self._read("/slots")
        except httpx2.HTTPStatusError:
            return False
        return any(entry["id"] == slot and entry["is_processing"] for entry in slots)

    async def busy_slots(self) -> int:
        """How many slots are at work; 0 where the server doesn't tell."""
        try:
            slots = await self._read("/slots")
        except httpx2.HTTPStatusError:
            return 0
        return sum(bool(entry["is_processing"]) for entry in slots)

    async def embed(self, ids: Sequence[int]) -> Vector:
        """The embedding of a sequence, its length 1, as a server gives it that was started for embeddings.

        llama-server is silent until it is computed, minutes for a long text on a slow machine. Who notices that the
        server is lost closes this client, which ends the wait.
        """
        self._check_open()
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
        self._check_open()
        reader, answering = CompletionReader(), False
        try:
            async with self._http.stream("POST", "/completion", json=body) as response:
                answering = True
                if response.status_code != 200:
                    await response.aread()
                    raise EngineFailed(_refusal(response))
                async for chunk in response.aiter_raw():
                    for part in reader.feed(chunk):
                        yield await self._with_ids(part)
        except httpx2.HTTPError as error:
            if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout) and not answering:
                raise ConnectionError(str(error)) from error
            raise EngineFailed(LOST) from error

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

    def _check_open(self) -> None:
        if self._http.is_closed:
            msg = "the connection was closed"
            raise ConnectionError(msg)

    async def _get(self, path: str) -> httpx2.Response:
        self._check_open()
        try:
            return await self._http.get(path, timeout=PROBE_SECONDS)
        except httpx2.TransportError as error:
            raise ConnectionError(str(error)) from error

    async def _read(self, path: str) -> Any:
        response = await self._get(path)
        if response.status_code == 401:
            msg = "the key was refused"
            raise PermissionError(msg)
        response.raise_for_status()
        return response.json()


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
