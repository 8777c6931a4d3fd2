"""In the place of the child that runs Transformers: the same HTTP, and a generator that draws its prompt's last id.

Arguments: what to do, a file for the configuration, and then what the real one would get.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict
from pathlib import Path

import uvicorn

from quern.engine.transformers.child.completion import Completion, Ended, Event, Token
from quern.engine.transformers.child.http import Application, Facts


class Parrot:
    """Says the prompt's last token again and again."""

    facts = Facts(context_length=512, vocabulary_size=1000, device="a parrot", dtype="none")

    def check(self) -> str:
        return ""

    async def generate(self, completion: Completion) -> AsyncGenerator[Sequence[Event]]:
        yield []
        yield [Token(completion.prompt[-1]) for _ in range(completion.max_tokens)]
        yield [Ended(stop=False)]


def main() -> None:
    mode, place, *arguments = sys.argv[1:]
    config = json.loads(sys.stdin.readline())
    Path(place).write_text(json.dumps({"config": config, "arguments": arguments}))
    if mode == "broken":
        sys.stderr.write("ModuleNotFoundError: No module named 'torch'\n")
        sys.exit(1)
    sys.stdout.write(json.dumps({"progress": 0.5}) + "\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(config["socket"])
        listener.listen()
        threading.Thread(target=end_with_standard_input, daemon=True).start()
        sys.stdout.write(json.dumps({"address": "unix:", **asdict(Parrot.facts)}) + "\n")
        sys.stdout.flush()
        settings = uvicorn.Config(Application(Parrot(), config["api_key"]), lifespan="off", log_level="warning")
        asyncio.run(uvicorn.Server(settings).serve(sockets=[listener]))


def end_with_standard_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
