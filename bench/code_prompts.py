"""Real code to prompt with: the standard library's sources, the same on every run, different for every sequence."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from quern.modelfiles.gguf import read_gguf
from quern.prompt.tokenizer import Tokenizer

SMALLEST_SOURCE = 20_000  # bytes; shorter files are mostly imports and comments


def sources() -> Iterator[str]:
    """The larger modules of the standard library, in the order of their names."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if path.stat().st_size >= SMALLEST_SOURCE:
            yield path.read_text(encoding="utf-8", errors="replace")


def code_snippets(count: int, characters: int, skip: int = 0) -> list[str]:
    """`count` pieces of code of some `characters` each, no two alike; `skip` leaves out those of earlier calls."""
    pieces = (
        source[start : start + characters]
        for source in sources()
        for start in range(0, len(source) - characters, characters)
    )
    found = [piece for _, piece in zip(range(skip + count), pieces, strict=False)][skip:]
    if len(found) < count:
        msg = f"the standard library here has too little code for {count} pieces of {characters} characters"
        raise ValueError(msg)
    return found


class CodeTokens:
    """Token ids of code, in a model's own vocabulary."""

    def __init__(self, model_path: Path) -> None:
        self._tokenizer = Tokenizer(read_gguf(model_path).vocabulary)
        self._streams: list[list[int]] = []
        self._sources = sources()

    def prompts(self, count: int, tokens: int) -> list[list[int]]:
        """`count` prompts of exactly `tokens` ids, each from a source of its own."""
        return [self._stream(index, tokens)[:tokens] for index in range(count)]

    def _stream(self, index: int, tokens: int) -> list[int]:
        while len(self._streams) <= index:
            ids = self._tokenizer.encode(next(self._sources))
            if len(ids) >= tokens:
                self._streams.append(ids)
        return self._streams[index]
