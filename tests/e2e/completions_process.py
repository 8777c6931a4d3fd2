"""A server of completions as a process of its own: `python completions_process.py MODEL PORT [--paced MILLISECONDS]`.

With a model's file on `cpu` behind the protocol; or with nothing, and random letters, one every so many milliseconds.
Prints its URL, and ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import structlog
from tests.completions_server import CompletionsServer, server_of_model

from quern.config_models import EngineSettings
from quern.engine.fake import FakeEngine
from quern.prompt.codec import TextCodec

SETTINGS = EngineSettings(parallel=32, context_length=4096, kv_tokens=65536, threads=1)
PLACES = 300
LETTERS = range(64, 90)
"""Ids of a to z in Qwen's vocabularies."""


def paced(milliseconds: float) -> CompletionsServer:
    """A server that computes nothing."""
    letters = random.Random(1).choices(LETTERS, k=4096)
    engine = FakeEngine(reply=lambda _: letters, parallel=PLACES, token_delay=milliseconds / 1000)
    return CompletionsServer(engine, kv_tokens=PLACES * 4096)


async def main(model: Path, port: int, milliseconds: float | None) -> None:
    """Serve until nobody wants it any more."""
    codec = await asyncio.to_thread(TextCodec.load, model) if milliseconds is None else None
    server = paced(milliseconds or 0) if codec is None else server_of_model(model, codec, SETTINGS)
    await server.engine.start()
    async with server.listening(port) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
    await server.engine.close()
    if codec is not None:
        codec.close()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--paced", type=float)
    options = parser.parse_args()
    asyncio.run(main(options.model, options.port, options.paced))
