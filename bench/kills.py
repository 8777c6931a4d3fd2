"""Kills a server with `kill -9` at random moments under a load of all dialects, and looks at what is left.

    .venv/bin/python bench/kills.py --kills 100 --model qwen2.5-coder-0.5b

First every request of the load is answered once, undisturbed. Then, again and again: clients ask, the server is
killed, its database is checked, it is started again; every turn that a client knows of must be complete and say what
its client saw, or be interrupted with all that its client saw until 250 ms before; each interrupted one goes on, and
must be what it is undisturbed. Answers are greedy or seeded, so that they can be compared. Exits with 1 where anything
is not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

from serving import Server, add_server_options, data_folder

MOST_LOST = 0.25
"""Seconds of text that a kill may cost."""

ASKS = ("a bubble sort", "排序算法", "a JSON parser", "a class for matrices", "Fibonacci numbers")
TOOL = {
    "name": "write_file",
    "description": "Write a file.",
    "parameters": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
        "required": ["path", "text"],
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "lines": {"type": "array", "items": {"type": "string"}, "minItems": 4}},
    "required": ["name", "lines"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Ask:
    """One request of the load: `read` takes its own stream's lines apart, into what is said."""

    name: str
    path: str
    body: dict[str, Any]
    read: Callable[[str], str]
    form: bool = False


@dataclass
class Seen:
    """What a client saw of a turn: pieces with their times, and whether its end came."""

    ask: Ask
    turn_id: str = ""
    pieces: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    complete: bool = False

    def text(self, until: float = float("inf")) -> str:
        return "".join(piece for moment, piece in self.pieces if moment <= until)


def _data(line: str) -> Any:
    if not line.startswith("data: ") or line == "data: [DONE]":
        return {}
    return json.loads(line.removeprefix("data: "))


def _chat(line: str) -> str:
    delta = _choice(line).get("delta", {})
    calls: list[Any] = delta.get("tool_calls") or []
    return (delta.get("content") or "") + "".join(call["function"].get("arguments") or "" for call in calls)


def _choice(line: str) -> dict[str, Any]:
    choices: list[dict[str, Any]] = _data(line).get("choices") or [{}]
    return choices[0]


def _completion(line: str) -> str:
    return str(_choice(line).get("text", ""))


def _messages(line: str) -> str:
    delta = _data(line).get("delta", {})
    return str(delta.get("text") or delta.get("partial_json") or "")


def _responses(line: str) -> str:
    data = _data(line)
    return str(data["delta"]) if str(data.get("type", "")).endswith(("output_text.delta", "arguments.delta")) else ""


def _ollama(line: str) -> str:
    return str(json.loads(line).get("message", {}).get("content", "")) if line else ""


def _llamacpp(line: str) -> str:
    return str(_data(line).get("content", ""))


def asks(topics: int, tokens: int) -> list[Ask]:
    """The load: each kind of request about so many topics, with answers of so many tokens at most."""
    found: list[Ask] = []
    for number, what in enumerate(ASKS[:topics]):
        messages = [{"role": "user", "content": f"Write {what} in Python."}]
        most: dict[str, Any] = {"temperature": 0, "stream": True}
        chat = {**most, "messages": messages, "max_tokens": tokens}
        tools = [{"type": "function", "function": TOOL}]
        form = {"prompt": messages[0]["content"], "temperature": "0", "max_tokens": str(tokens)}
        formats = {"type": "json_schema", "json_schema": {"name": "file", "schema": SCHEMA}}
        found += [
            Ask(f"code {number}", "/v1/code/chat_stream", form, str, form=True),
            Ask(f"chat {number}", "/v1/chat/completions", chat, _chat),
            Ask(f"tools {number}", "/v1/chat/completions", {**chat, "tools": tools, "tool_choice": "required"}, _chat),
            Ask(f"schema {number}", "/v1/chat/completions", {**chat, "response_format": formats}, _chat),
            Ask(f"penalty {number}", "/v1/chat/completions", {**chat, "presence_penalty": 0.7, "seed": 7}, _chat),
            Ask(f"seeded {number}", "/v1/chat/completions", {**chat, "temperature": 0.8, "seed": number}, _chat),
            Ask(f"messages {number}", "/v1/messages", chat, _messages),
            Ask(
                f"responses {number}",
                "/v1/responses",
                {**most, "input": messages[0]["content"], "max_output_tokens": tokens},
                _responses,
            ),
            Ask(
                f"completions {number}", "/v1/completions", {**most, "prompt": what, "max_tokens": tokens}, _completion
            ),
            Ask(f"llamacpp {number}", "/completion", {**most, "prompt": what, "n_predict": tokens}, _llamacpp),
            Ask(
                f"infill {number}",
                "/infill",
                {**most, "input_prefix": f"# {what}\ndef f(", "input_suffix": "\n", "n_predict": tokens},
                _llamacpp,
            ),
            Ask(
                f"ollama {number}",
                "/api/chat",
                {"model": "", "messages": messages, "options": {"temperature": 0, "num_predict": tokens}},
                _ollama,
            ),
        ]
    return found


def check_database(folder: Path) -> str:
    """What SQLite says of a data directory's database, once it has rolled back what a kill left half written."""
    with closing(sqlite3.connect(folder / "quern.db")) as database:
        foreign = database.execute("PRAGMA foreign_key_check").fetchall()
        (integrity,) = database.execute("PRAGMA integrity_check").fetchone()
    return f"{integrity}, {len(foreign)} broken references" if foreign else str(integrity)


def server_on(folder: Path, options: argparse.Namespace, **more: str) -> Server:
    """The server, whose turns go on when their clients have gone. `more`: environment variables."""
    settings = {"QUERN_MODEL__VERIFY": "false", "QUERN_TURNS__ONE_SHOT_DISCONNECT": "finish", **more}
    return Server(folder, options.model, "--engine", options.engine, **settings)


async def follow(http: httpx2.AsyncClient, turn_id: str) -> tuple[str, str]:
    """A turn's end state, and all that it said: texts and arguments."""
    said, provisional, state = "", "", ""
    async with http.stream("GET", f"/v1/turns/{turn_id}/events") as events:
        if events.status_code != 200:
            return f"HTTP {events.status_code}", ""
        async for line in events.aiter_lines():
            data = _data(line)
            piece = str(data.get("text") or data.get("arguments") or "")
            if data.get("provisional"):
                provisional += piece
            else:
                said += piece
            state = str(data.get("state") or state)
    return state, said + (provisional if state == "completed" else "")


async def ask(http: httpx2.AsyncClient, seen: Seen) -> None:
    """Ask and read to the end, or until the connection breaks."""
    sent: dict[str, Any] = {"data" if seen.ask.form else "json": seen.ask.body}
    with suppress(httpx2.HTTPError):
        async with http.stream("POST", seen.ask.path, **sent) as answer:
            answer.raise_for_status()
            seen.turn_id = answer.headers["x-quern-turn-id"]
            async for piece in _pieces(answer, seen.ask):
                seen.pieces.append((time.monotonic(), piece))
            seen.complete = True


async def _pieces(answer: httpx2.Response, asked: Ask) -> AsyncIterator[str]:
    if not asked.form:
        async for line in answer.aiter_lines():
            if piece := asked.read(line):
                yield piece
        return
    first = True
    async for text in answer.aiter_text():
        yield text.partition("\n---\n")[2] if first else text
        first = False


async def undisturbed(http: httpx2.AsyncClient, load: list[Ask], clients: int) -> dict[str, str]:
    """What each request is answered."""
    answers: dict[str, str] = {}
    left = list(load)

    async def client() -> None:
        while left:
            seen = Seen(left.pop())
            await ask(http, seen)
            state, said = await follow(http, seen.turn_id)
            if not seen.complete or state != "completed" or said != seen.text():
                sys.exit(f"{seen.ask.name} was not answered as it should be: {state}, {said!r}, {seen.text()!r}")
            answers[seen.ask.name] = said

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


async def load_until(http: httpx2.AsyncClient, load: list[Ask], clients: int, chance: random.Random) -> list[Seen]:
    """Ask until everything breaks."""
    asked: list[Seen] = []

    async def client() -> None:
        while True:
            seen = Seen(chance.choice(load))
            asked.append(seen)
            await ask(http, seen)
            if not seen.complete:
                return

    await asyncio.gather(*(client() for _ in range(clients)))
    return asked


@dataclass
class Verdict:
    """What was found, over all kills."""

    counts: Counter[str] = field(default_factory=Counter[str])
    faults: list[str] = field(default_factory=list[str])
    lost: list[float] = field(default_factory=list[float])

    async def judge(self, http: httpx2.AsyncClient, seen: Seen, killed: float, answers: dict[str, str]) -> None:
        """Compare what is left of a turn with what its client saw; go on with it."""
        state, said = await follow(http, seen.turn_id)
        self.counts[f"{state}{', complete at its client' if seen.complete else ''}"] += 1
        name, whole = seen.ask.name, answers[seen.ask.name]
        if state == "completed":
            if said != whole or (seen.complete and seen.text() != said):
                self.faults.append(f"{name} is complete and not as it was told: {said!r}")
        elif state != "interrupted" or seen.complete:
            self.faults.append(f"{name} is {state}, although its client saw {'its end' if seen.complete else 'a part'}")
        else:
            if not said.startswith(seen.text(until=killed - MOST_LOST)):
                self.faults.append(f"{name} lost more than {MOST_LOST} s: {said!r} of {seen.text()!r}")
            lost = [moment for moment, _ in seen.pieces if len(seen.text(until=moment)) > len(said)]
            self.lost.append(killed - min(lost) if lost else 0.0)
            answer = await http.post(f"/v1/turns/{seen.turn_id}/continue", json={})
            state, said = await follow(http, seen.turn_id)
            if answer.status_code != 200 or (state, said) != ("completed", whole):
                self.faults.append(f"{name} went on as {answer.status_code} {state}: {said!r} instead of {whole!r}")


async def measure(options: argparse.Namespace, folder: Path) -> Verdict:
    """All kills."""
    chance, verdict, load = random.Random(options.seed), Verdict(), asks(options.topics, options.tokens)
    server = server_on(folder, options)
    server.start()
    answers: dict[str, str] = {}
    for number in range(options.kills):
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:
            answers = answers or await undisturbed(http, load, options.clients)
            loading = asyncio.ensure_future(load_until(http, load, options.clients, chance))
            await asyncio.sleep(chance.uniform(0.2, options.seconds))
            killed = time.monotonic()
            server.end(signal.SIGKILL)
            asked = [seen for seen in await loading if seen.turn_id]
        known = len(verdict.faults)
        if (integrity := check_database(folder)) != "ok":
            verdict.faults.append(f"the database after kill {number + 1}: {integrity}")
        server.start()
        async with httpx2.AsyncClient(base_url=server.url, timeout=300, limits=limits) as http:
            await asyncio.gather(*(verdict.judge(http, seen, killed, answers) for seen in asked))
        print(f"kill {number + 1}: {dict(verdict.counts)}", *verdict.faults[known:], sep="\n", flush=True)
    server.end(signal.SIGTERM)
    return verdict


def main() -> None:
    """Kill, print, exit with 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="The longest time between a start and its kill.")
    parser.add_argument("--topics", type=int, default=len(ASKS), help="Of each kind of request.")
    parser.add_argument("--tokens", type=int, default=100, help="The most of an answer.")
    add_server_options(parser)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with data_folder(options.models_dir) as folder:
        verdict = asyncio.run(measure(options, folder))
    worst, usual = max(verdict.lost, default=0.0), median(verdict.lost or [0.0])
    print(f"{options.kills} kills, {sum(verdict.counts.values())} turns, {len(verdict.faults)} faults")
    print(f"a turn's oldest lost text had been told {1000 * usual:.0f} ms before (median), {1000 * worst:.0f} at most")
    sys.exit(bool(verdict.faults))


if __name__ == "__main__":
    main()
