"""A server that completes token ids over vLLM's protocol, with one of our engines behind it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from quern.config_models import EngineSettings
from quern.engine.base import Engine, EngineEvent, Finished, GenerateRequest, Logprob, Priority, Tokens
from quern.engine.completions.client import CompletionServer
from quern.engine.completions.engine import Connected
from quern.engine.completions.request import ALL, Abilities
from quern.errors import QuernError
from quern.events import Prefill
from quern.grammar.kinds import LarkGrammar
from quern.prompt.codec import TextCodec
from quern.sampling import SamplingParams

Json = dict[str, Any]
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
VALUES = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed", "ignore_eos", "logprobs",
)  # fmt: skip
OFF: Json = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""vLLM's defaults where a request says nothing."""
BY_ID = re.compile(r"<\[(\d+)\]>")


class CompletionsServer:
    """`bodies`: what it was asked to complete; `headers`: of those requests. `cancelled`: answers whose reader closed.

    `refusal`: status and body of every answer instead. `breaks_after`: a connection breaks after so many chunks of an
    answer. `names`: special tokens' texts, by which the engine knows them in a grammar. `tells_ids`, `tells_cache`,
    `healthy`: what it does; `health`: where it says so. `max_model_len`: what it says of its context.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        model: str = "served",
        api_key: str = "",
        kv_tokens: int = 4096,
        names: Mapping[int, str] | None = None,
    ) -> None:
        self.engine = engine
        self._names = names or {}
        self.model = model
        self.api_key = api_key
        self.kv_tokens = kv_tokens
        self.max_model_len = 3072
        self.bodies: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled = 0
        self.refusal: tuple[int, bytes] | None = None
        self.breaks_after: int | None = None
        self.tells_ids = True
        self.tells_cache = True
        self.healthy = True
        self.health = "/health"
        self._writers: set[asyncio.StreamWriter] = set()
        self._answering: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncGenerator[str]:
        """Its URL, while it listens."""
        async with await asyncio.start_server(self._respond, "127.0.0.1", port) as server:
            try:
                yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            finally:
                await self.drop()

    async def drop(self) -> None:
        """Break every connection, as a process that dies does."""
        for writer in list(self._writers):
            writer.transport.abort()
        tasks = list(self._answering)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        self._writers.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer(reader, writer)
        finally:
            writer.close()
            self._writers.discard(writer)
            self._answering.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().splitlines()
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = first.split()[1]
        if path.startswith("/v1/") and self.api_key and headers.get("authorization") != f"Bearer {self.api_key}":
            await self._send(writer, 401, {"error": "Unauthorized"})
        elif path == "/v1/completions":
            self.bodies.append(json.loads(body))
            self.headers.append(headers)
            await self._complete(reader, writer, self.bodies[-1])
        elif path == "/v1/models":
            await self._send(writer, 200, {"data": [{"id": self.model, "max_model_len": self.max_model_len}]})
        elif path == "/metrics" and self.tells_cache:
            labels = f'block_size="16",num_gpu_blocks="{self.kv_tokens // 16}"'
            await self._send(writer, 200, f"# HELP x\nvllm:cache_config_info{{{labels}}} 1.0\n".encode())
        else:
            await self._send(writer, 200 if path == self.health and self.healthy else 503, b"")

    async def _complete(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: Json) -> None:
        if self.refusal is not None:
            await self._send(writer, *self.refusal)
            return
        streaming = asyncio.ensure_future(self._stream(writer, body))
        gone = asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait([streaming, gone], return_when=asyncio.FIRST_COMPLETED)
            self.cancelled += not streaming.done()
        finally:
            streaming.cancel()
            gone.cancel()
            await asyncio.gather(streaming, gone, return_exceptions=True)

    async def _stream(self, writer: asyncio.StreamWriter, body: Json) -> None:
        writer.write(STREAM_HEAD)
        await writer.drain()
        sent = 0
        async with aclosing(self._chunks(body)) as chunks:
            async for chunk in chunks:
                if sent == self.breaks_after:
                    writer.transport.abort()
                    return
                writer.write(b"data: " + chunk + b"\n\n")
                await writer.drain()
                sent += 1

    async def _chunks(self, body: Json) -> AsyncGenerator[bytes]:
        """As vLLM tells them: the end's reason comes with the last ids, the counts after that."""
        request = read_request(body, self._names)
        cached, held = 0, Tokens(())
        try:
            async with aclosing(self.engine.generate(request)) as events:
                async for event in events:
                    match event:
                        case Prefill():
                            cached = event.cached
                        case Tokens():
                            if held.ids:
                                yield self._chunk(body, held)
                            held = event
                        case Finished():
                            yield self._chunk(body, *self._last(body, held, event))
                            cached = event.usage.cached_tokens
                        case _:
                            pass
        except QuernError as error:
            if held.ids:
                yield self._chunk(body, held)
            yield json.dumps({"error": {"message": str(error), "code": 500}}).encode()
        else:
            usage = {"prompt_tokens": len(request.prompt), "prompt_tokens_details": {"cached_tokens": cached}}
            yield json.dumps({"choices": [], "usage": usage}).encode()
        yield b"[DONE]"

    @staticmethod
    def _last(body: Json, held: Tokens, end: Finished) -> tuple[Tokens, str]:
        stops: Sequence[int] = body["stop_token_ids"]
        if end.reason.value != "stop" or not stops:
            return held, end.reason.value
        logprobs = None if held.logprobs is None and "logprobs" not in body else (*(held.logprobs or ()), Logprob(-0.1))
        return Tokens((*held.ids, stops[0]), logprobs), "stop"

    def _chunk(self, body: Json, tokens: Tokens, reason: str | None = None) -> bytes:
        choice: Json = {"index": 0, "text": "?" * len(tokens.ids), "finish_reason": reason, "stop_reason": None}
        if self.tells_ids and body.get("return_token_ids"):
            choice["token_ids"] = tokens.ids
        if tokens.logprobs is not None:
            choice["logprobs"] = {
                "token_logprobs": [logprob.value for logprob in tokens.logprobs],
                "top_logprobs": [
                    {f"token_id:{name}": value for name, value in ((token, logprob.value), *logprob.top)}
                    for token, logprob in zip(tokens.ids, tokens.logprobs, strict=True)
                ],
            }
        return json.dumps({"object": "text_completion", "model": self.model, "choices": [choice]}).encode()

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, status: int, body: bytes | Json) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} ?\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()


def server_of_model(model: Path, codec: TextCodec, settings: EngineSettings) -> CompletionsServer:
    """One with the model on `cpu` behind it, not yet started."""
    from quern.engine.cpu.engine import CpuEngine  # noqa: PLC0415 (brings the native module along)

    engine = CpuEngine(model, model_id="small", facts=codec.facts, settings=settings, vocabulary=codec.tokenizer)
    special = {**codec.tokenizer.special.control, **codec.tokenizer.special.user_defined}
    names = {token: text for text, token in special.items()}
    return CompletionsServer(engine, kv_tokens=settings.kv_tokens, names=names)


class ServerBackend:
    """Starts the server that `make` makes, anew each time, as a child process would be. `crash` loses it."""

    def __init__(self, make: Callable[[], CompletionsServer], *, abilities: Abilities = ALL) -> None:
        self._make = make
        self._abilities = abilities
        self._life = AsyncExitStack()
        self._gone = asyncio.Event()
        self.server: CompletionsServer | None = None

    @property
    def expected_load_seconds(self) -> float:
        return 1.0

    def progress(self) -> float:
        return 0.0

    async def start(self) -> Connected:
        self._gone.clear()
        self.server = server = self._make()
        await server.engine.start()
        self._life.push_async_callback(server.engine.close)
        url = await self._life.enter_async_context(server.listening())
        client = CompletionServer(url, server.api_key, connections=8, trust_env=False, silence_seconds=None)
        self._life.push_async_callback(client.close)
        client.abilities = self._abilities
        return Connected(client, await client.facts(), "a server of the test's", self._abilities)

    async def lost(self) -> str:
        await self._gone.wait()
        return "It was made to crash."

    async def stop(self) -> None:
        await self._life.aclose()
        self.server = None

    async def crash(self) -> None:
        assert self.server is not None
        await self.server.drop()
        self._gone.set()


def read_request(body: Json, names: Mapping[int, str]) -> GenerateRequest:
    """What a body asks for."""
    sampling = {**OFF, **{name: body[name] for name in VALUES if name in body}}
    biases = {int(token): bias for token, bias in body.get("logit_bias", {}).items()}
    grammar = body.get("structured_outputs", {}).get("grammar")
    return GenerateRequest(
        tuple(body["prompt"]),
        SamplingParams(**sampling, logit_bias=biases),
        stop_token_ids=frozenset(body["stop_token_ids"]),
        priority=Priority(body.get("priority", 0)),
        cache_salt=body.get("cache_salt", ""),
        grammar=LarkGrammar(BY_ID.sub(lambda found: names[int(found[1])], grammar)) if grammar is not None else None,
    )


def tokens_of(events: Sequence[EngineEvent]) -> tuple[int, ...]:
    """The ids that events tell."""
    return tuple(token for event in events if isinstance(event, Tokens) for token in event.ids)
