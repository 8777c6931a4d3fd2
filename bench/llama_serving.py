"""A real llama-server process for the benchmarks, as `make peers` builds it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from sides import llama_binary

READY_SECONDS = 120
POLL_SECONDS = 0.1


@asynccontextmanager
async def llama_served(model: Path, *, threads: int, parallel: int, context: int) -> AsyncGenerator[httpx2.AsyncClient]:
    """Start a server, give a client for it, stop it. `context` is in tokens for each of `parallel` sequences.

    Raises RuntimeError where it does not get ready.
    """
    port = _free_port()
    process = await asyncio.create_subprocess_exec(
        *(str(llama_binary("llama-server")), "-m", str(model), "--host", "127.0.0.1", "--port", str(port)),
        *("-np", str(parallel), "-c", str(parallel * context), "-cb", "-t", str(threads), "-tb", str(threads)),
        *("--cache-ram", "0"),  # saves it from copying KV caches that nothing here would use again
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None) as client:
            await _ready(client, process)
            yield client
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def stream_completion(client: httpx2.AsyncClient, prompt: Sequence[int], max_tokens: int) -> AsyncGenerator[int]:
    """Generate greedily from token ids; gives the number of tokens so far, whenever there are more."""
    body = {"prompt": list(prompt), "n_predict": max_tokens, "temperature": 0, "stream": True, "cache_prompt": False}
    async with client.stream("POST", "/completion", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))["tokens_predicted"]


async def _ready(client: httpx2.AsyncClient, process: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while process.returncode is None and time.monotonic() < deadline:
        try:
            if (await client.get("/health")).status_code == 200:
                return
        except httpx2.TransportError:
            pass  # not listening yet
        await asyncio.sleep(POLL_SECONDS)
    raise RuntimeError("llama-server did not get ready")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
