"""A real `quern serve` process for the benchmarks, on a data directory of its own with the installed models."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2


@asynccontextmanager
async def served(model_dir: Path, model: str, *options: str) -> AsyncGenerator[httpx2.AsyncClient]:
    """Start a server, give a client for it, stop it. `options` go to `quern serve`.

    Raises RuntimeError where it does not get ready.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").symlink_to(model_dir, target_is_directory=True)
        quern = str(Path(sys.executable).with_name("quern"))
        process = await asyncio.create_subprocess_exec(
            *(quern, "serve", "--port", "0", "--model", model, "--data-dir", folder, *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        if process.stdout is None:
            raise RuntimeError("the server has no output")
        async for line in process.stdout:
            if line.startswith(b"Serving"):
                url = line.split()[1].decode()
                break
        else:
            raise RuntimeError("the server did not get ready")
        async with httpx2.AsyncClient(base_url=url, timeout=None) as client:
            yield client
        process.terminate()
        await process.wait()
