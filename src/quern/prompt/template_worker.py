"""The child process that renders a model's own chat template: `python -m quern.prompt.template_worker`.

It reads JSON lines: first `{"source": …, "variables": …, "special": …}`, then `{"messages": …, "tools": …}` for each
prompt. It answers each line with one, `{"text": …}` or `{"error": <class in quern.errors>, "message": …}`. It ends with
its standard input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator

from quern.errors import ModelError, QuernError
from quern.prompt.template import InProcessTemplate

MOST_MEMORY = 2**30
"""Bytes of address space; the longest prompts in use need less than half."""


def replies(requests: Iterable[bytes]) -> Iterator[bytes]:
    """The reply to each request. An unusable template ends the conversation."""
    lines = iter(requests)
    opening = json.loads(next(lines))
    try:
        template = InProcessTemplate(opening["source"], opening["variables"], opening["special"])
    except QuernError as error:
        yield _failure(error)
        return
    yield _line({"text": ""})
    for line in lines:
        try:
            prompt = json.loads(line)
            reply = _line({"text": template.render(prompt["messages"], prompt["tools"])})
        except QuernError as error:
            reply = _failure(error)
        except MemoryError:
            reply = _failure(ModelError("The model's chat template ran out of memory."))
        yield reply


def _failure(error: QuernError) -> bytes:
    return _line({"error": type(error).__name__, "message": str(error)})


def _line(reply: dict[str, str]) -> bytes:
    return json.dumps(reply).encode() + b"\n"


def _limit_memory() -> None:
    try:
        import resource  # noqa: PLC0415 (POSIX only)

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    except (ImportError, OSError, ValueError):
        print("The memory of chat templates can't be limited on this system.", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    _limit_memory()
    for message in replies(sys.stdin.buffer):
        sys.stdout.buffer.write(message)
        sys.stdout.buffer.flush()
