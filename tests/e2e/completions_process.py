"""A server of completions as a process of its own, with a model on `cpu` behind the protocol; takes the path of the
model and a port. Prints its URL, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import structlog
from tests.completions_server import server_of_model

from quern.config import EngineSettings
from quern.prompt.codec import TextCodec

SETTINGS = EngineSettings(parallel=32, context_length=4096, kv_tokens=65536, threads=1)


async def main(model: Path, port: int) -> None:
    """Serve until nobody wants it any more."""
    codec = await asyncio.to_thread(TextCodec.load, model)
    server = server_of_model(model, codec, SETTINGS)
    await server.engine.start()
    async with server.listening(port) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
    await server.engine.close()
    codec.close()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
