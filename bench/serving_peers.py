"""Two servers over HTTP, in pairs taken right after each other: `quern serve` and llama-server, same GGUF and prompts.

N users at once each send a prompt of real code and stream the answer, greedily. Every prompt is new, so no cache
helps. Both servers stay up; the one that is not measured is idle. Ours is driven as a client drives it, through
`/v1/code/chat_stream` with its template, tokeniser and database; llama-server through `/completion` with the same
token ids. Counted are tokens, as each server counts them, from the first request to the last answer's end.

    python bench/serving_peers.py --engine cpu --pairs 5 --json build/results/serving.json
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from code_prompts import code_snippets
from installed import installed
from llama_serving import llama_served, stream_completion
from quern.config import Settings
from quern.prompt.codec import TextCodec
from quern.types import Message, Role
from results import Paired, machine, markdown_table, write_json
from serving import served

TASK = "Write unit tests with pytest for this code. Give the code only.\n\n```python\n{code}\n```"
CONTEXT = 2048  # for each of llama-server's slots; prompt and answer together stay well below

TITLES = {
    "total": "tokens/s",
    "pace": "tokens/s of one user, median",
    "first": "seconds to the first token, median (less is better)",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One user's answer; times in seconds."""

    tokens: int
    first: float
    whole: float

    @property
    def pace(self) -> float:
        """Tokens per second after the first."""
        return (self.tokens - 1) / max(self.whole - self.first, 1e-9)


@dataclass(frozen=True, slots=True)
class Round:
    """All users' answers, which were asked for at the same time."""

    answers: Sequence[Answer]
    seconds: float

    @property
    def values(self) -> dict[str, float]:
        """What is compared: all tokens per second, a user's pace, the time to the first token."""
        return {
            "total": sum(answer.tokens for answer in self.answers) / self.seconds,
            "pace": statistics.median(answer.pace for answer in self.answers),
            "first": statistics.median(answer.first for answer in self.answers),
        }


async def ask_quern(client: httpx2.AsyncClient, prompt: str, max_tokens: int) -> Answer:
    """Stream one answer; its tokens are what the server has counted."""
    data = {"prompt": prompt, "max_tokens": str(max_tokens), "temperature": "0", "repetition_penalty": "1"}
    started, first, text = time.monotonic(), None, ""
    async with client.stream("POST", "/v1/code/chat_stream", data=data) as response:
        response.raise_for_status()
        async for chunk in response.aiter_text():
            text += chunk
            if first is None and text.partition("\n---\n")[2]:
                first = time.monotonic() - started
    whole = time.monotonic() - started
    conversation = text.partition("\n---\n")[0].removeprefix("conversation_id:")
    body = (await client.get(f"/v1/conversations/{conversation}")).raise_for_status().json()
    return Answer(body["turns"][0]["usage"]["completion_tokens"], first or whole, whole)


async def ask_llama_server(client: httpx2.AsyncClient, prompt: Sequence[int], max_tokens: int) -> Answer:
    """Stream one answer."""
    started, first, tokens = time.monotonic(), None, 0
    async for tokens in stream_completion(client, prompt, max_tokens):  # noqa: B007 (the last one counts)
        first = first or time.monotonic() - started
    whole = time.monotonic() - started
    return Answer(tokens, first or whole, whole)


async def _round(ask: Callable[[int], Awaitable[Answer]], users: int) -> Round:
    started = time.monotonic()
    answers = await asyncio.gather(*(ask(user) for user in range(users)))
    return Round(answers, time.monotonic() - started)


class Comparison:
    """Both servers, for one number of users."""

    def __init__(self, codec: TextCodec, quern: httpx2.AsyncClient, llama_cpp: httpx2.AsyncClient) -> None:
        self._codec = codec
        self._quern = quern
        self._llama_cpp = llama_cpp
        self._asked = 0

    async def run(self, users: int, pairs: int, max_tokens: int, characters: int) -> list[Paired]:
        """Alternate the two, swapping their order in every second pair."""
        rows = {
            key: Paired(f"{key}{users}", f"{users} users: {title}" if users > 1 else f"1 user: {title}")
            for key, title in TITLES.items()
        }
        for number in range(pairs):
            texts = [TASK.format(code=code) for code in code_snippets(users, characters, self._asked)]
            self._asked += users
            sides = [("quern", self._ask_quern(texts, max_tokens)), ("llama_cpp", self._ask_llama(texts, max_tokens))]
            for side, ask in sides if number % 2 == 0 else reversed(sides):
                values = (await _round(ask, users)).values
                for key, row in rows.items():
                    getattr(row, side).append(values[key])
                print(f"{users} users, pair {number}, {side}: {values['total']:.1f} tokens/s", flush=True)
        return list(rows.values())

    def _ask_quern(self, texts: Sequence[str], max_tokens: int) -> Callable[[int], Awaitable[Answer]]:
        return lambda user: ask_quern(self._quern, texts[user], max_tokens)

    def _ask_llama(self, texts: Sequence[str], max_tokens: int) -> Callable[[int], Awaitable[Answer]]:
        ids = [self._codec.encode_chat([Message(Role.USER, text)]) for text in texts]
        return lambda user: ask_llama_server(self._llama_cpp, ids[user], max_tokens)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-1.5b", help="a catalog name or a GGUF file")
    parser.add_argument("--engine", default="auto", help="what `quern serve --engine` gets")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--characters", type=int, default=800, help="of code in each prompt; some four make a token")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


async def main() -> None:
    """Start both servers, compare them, print the table, write the JSON."""
    options = _parse()
    here = machine()
    settings = Settings()
    model = installed(options.model)
    codec = await asyncio.to_thread(TextCodec.load, model)
    rows: list[Paired] = []
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write(f"[engine]\nthreads = {options.threads}\nparallel = {max(options.users)}\n")
        config.flush()
        async with (
            served(settings.models_dir, options.model, "--engine", options.engine, "--config", config.name) as quern,
            llama_served(model, threads=options.threads, parallel=max(options.users), context=CONTEXT) as llama_cpp,
        ):
            comparison = Comparison(codec, quern, llama_cpp)
            await comparison.run(1, 1, 8, options.characters)  # a warm-up, thrown away
            for users in options.users:
                rows += await comparison.run(users, options.pairs, options.max_tokens, options.characters)
    codec.close()
    print(f"\n{options.model}, engine {options.engine}, {options.threads} threads, {options.max_tokens} tokens each\n")
    print(markdown_table(rows, "over HTTP"))
    write_json(
        options.json,
        {
            "machine": here,
            "model": options.model,
            "engine": options.engine,
            "threads": options.threads,
            "max_tokens": options.max_tokens,
            "measures": [row.as_dict() for row in rows],
        },
    )


if __name__ == "__main__":
    asyncio.run(main())
