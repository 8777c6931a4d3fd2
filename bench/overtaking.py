"""Somebody types while others chat: seconds until a gap is filled, alone, among chats, and as one of the chats (the
same token ids as a plain prompt, which is not urgent). Rounds of the three in turn.

python bench/overtaking.py --model qwen2.5-coder-1.5b --chats 8
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from quern.config import Settings
from serving import served

TOKENS = 16
FILE = "".join(f"def step_{n}(values):\n    return sum(values) * {n}\n\n\n" for n in range(12))
MARKS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
IDS = (151659, 151661, 151660)
"""Those of the marks in all of Qwen2.5-Coder's models."""


async def _answer(client: httpx2.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json=body)
    response.raise_for_status()
    return response.json()


async def _seconds(client: httpx2.AsyncClient, number: int, *, urgent: bool) -> float:
    """Fill a gap of a file that nobody has sent before, so that all of it is read."""
    prefix, suffix = f"# version {number}\n{FILE}def total(values):\n    return ", f"\n\n\nVERSION = {number}\n"
    asked: dict[str, Any] = {"prompt": prefix, "suffix": suffix}
    if not urgent:
        ids = [(await _answer(client, "/tokenize", content=text))["tokens"] for text in (prefix, suffix)]
        asked = {"prompt": [IDS[0], *ids[0], IDS[1], *ids[1], IDS[2]]}
    began = time.monotonic()
    await _answer(client, "/v1/completions", **asked, max_tokens=TOKENS, temperature=0)
    return time.monotonic() - began


@asynccontextmanager
async def _chatting(client: httpx2.AsyncClient, chats: int) -> AsyncGenerator[None]:
    """Long answers all the time, until they are cancelled."""
    started = [
        await _answer(
            client,
            "/v1/responses",
            input=f"Count from {number} to ten thousand, one number a line.",
            background=True,
            max_output_tokens=4000,
        )
        for number in range(chats)
    ]
    await asyncio.sleep(chats)
    yield
    for response in started:
        ended = await _answer(client, f"/v1/responses/{response['id']}/cancel")
        if ended["status"] != "cancelled":
            raise RuntimeError("a chat ended while it was measured against")


async def main() -> None:
    """Measure in rounds and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--chats", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    measured: dict[str, list[float]] = {"alone": [], "among chats": [], "as one of the chats": []}
    async with served(Settings().models_dir, options.model) as client:
        for number in range(0, 3 * options.rounds, 3):
            measured["alone"].append(await _seconds(client, number, urgent=True))
            async with _chatting(client, options.chats):
                measured["among chats"].append(await _seconds(client, number + 1, urgent=True))
                measured["as one of the chats"].append(await _seconds(client, number + 2, urgent=False))
    print(f"{options.chats} chats, {TOKENS} tokens; median of {options.rounds}, seconds (least to most)")
    for name, seconds in measured.items():
        print(f"{name:26} {statistics.median(seconds):6.2f} ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    asyncio.run(main())
