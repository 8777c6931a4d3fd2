"""An agent's loop: every turn sends the whole history again, with a tool's result at its end. Prints what each turn
really reads: the prompt's tokens, those that were cached, those that were computed, and the seconds to the whole call.

python bench/agent_loop.py --model qwen2.5-coder-1.5b --turns 30
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass
from typing import Any

import httpx2

from quern.config import Settings
from serving import served

SYSTEM = "You are a coding agent. Read files with the tool before you change them. " * 20
FILE = (
    "def step_{n}(values):\n    total = {n}\n    for value in values:\n        total += value * {n}\n    return total\n"
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "read_file",
            "description": "Read a file.",
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        },
    }
]


@dataclass(frozen=True)
class Turn:
    """What one turn cost; tokens, and seconds until its call was whole."""

    prompt: int
    cached: int
    seconds: float

    @property
    def read(self) -> int:
        """Tokens that were computed."""
        return self.prompt - self.cached


async def _turn(client: httpx2.AsyncClient, messages: list[Any]) -> tuple[Turn, dict[str, Any]]:
    body = {"messages": messages, "tools": TOOLS, "tool_choice": "required", "temperature": 0, "max_tokens": 60}
    began = time.monotonic()
    response = await client.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    answer = response.json()
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Turn(usage["prompt_tokens"], cached, time.monotonic() - began), answer["choices"][0]["message"]


async def _loop(client: httpx2.AsyncClient, turns: int) -> list[Turn]:
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    measured: list[Turn] = []
    for number in range(turns):
        messages.append({"role": "user", "content": f"Step {number}: read module_{number}.py."})
        turn, message = await _turn(client, messages)
        measured.append(turn)
        print(f"{number + 1:4} {turn.prompt:8} {turn.cached:8} {turn.read:8} {turn.seconds:8.2f}", flush=True)
        messages.append(message)
        content = FILE.format(n=number) * 3
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": content} for call in message["tool_calls"]]
    return measured


async def main() -> None:
    """Run the loop and sum it up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--turns", type=int, default=30)
    options = parser.parse_args()
    async with served(Settings().models_dir, options.model) as client:
        print("turn   prompt   cached     read  seconds")
        turns = await _loop(client, options.turns)
    sent, read = sum(turn.prompt for turn in turns), sum(turn.read for turn in turns)
    print(f"{sent} prompt tokens sent, {read} read ({100 * read / sent:.1f} %)")


if __name__ == "__main__":
    asyncio.run(main())
