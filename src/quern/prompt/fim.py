"""Fill in the middle: what stands before and after a gap, as the model was trained to be shown them.

Source of the formats: the Qwen2.5-Coder technical report, "File-Level" and "Repo-Level Pretraining", and the model's
README. One file: `<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>`. Before that, with more of a repository,
`<|repo_name|>NAME`, then for each file `<|file_sep|>PATH` and its text on the lines after.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypedDict

from quern.errors import InvalidRequest
from quern.prompt.tokenizer import Tokenizer

PREFIX, SUFFIX, MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
REPO_NAME, FILE_SEPARATOR = "<|repo_name|>", "<|file_sep|>"
ENDS = (PREFIX, SUFFIX, "<|fim_pad|>", REPO_NAME, FILE_SEPARATOR)
"""What a model writes where the gap is filled and it goes on with something else."""

ORDERS = ((PREFIX, SUFFIX), (SUFFIX, PREFIX))
"""Those in which clients write a gap. Models were trained on the first one, and are shown that."""
LINE_WITH_GAP = re.compile(rf"\n(?={re.escape(PREFIX)}|{re.escape(SUFFIX)})")

UNNAMED_REPOSITORY = "repository"
UNNAMED_FILE = "file"


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """Another file of the repository, or a piece of one."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """What to fill in. `begun`: how the filling begins. `files`: context from the same repository, at most useful first
    to last. `repository`, `path`: the repository's name, and the path of the file with the gap, where they are to be
    shown.
    """

    prefix: str
    suffix: str
    begun: str = ""
    files: Sequence[RepositoryFile] = ()
    repository: str | None = None
    path: str | None = None

    @classmethod
    def parse(cls, prompt: str) -> Self | None:
        """A whole frame that a client wrote out by itself, as many editor plug-ins do; None for any other text.

        The frame's own tokens are then tokens; everything between them stays text. Prefix and suffix may have changed
        places; blanks before the frame are left out.
        """
        frame = prompt.lstrip()
        if not frame.startswith((REPO_NAME, FILE_SEPARATOR)):
            return cls._parse_gap(frame)
        for start in _gap_starts(frame):
            gap = cls._parse_gap(frame[start:])
            if gap is not None:
                return replace(gap, **_header(frame[:start]))
        return None

    @classmethod
    def _parse_gap(cls, text: str) -> Self | None:
        order = next((order for order in ORDERS if text.startswith(order[0])), None)
        if order is None:
            return None
        first, second_mark, rest = text.removeprefix(order[0]).partition(order[1])
        second, middle_mark, begun = rest.rpartition(MIDDLE)
        if not (second_mark and middle_mark):
            return None
        return cls(first, second, begun) if order[0] == PREFIX else cls(second, first, begun)


class GapEncoder:
    """Encodes gaps. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids = tokenizer.special.control

    @property
    def supported(self) -> bool:
        """Whether the model has the tokens."""
        return {PREFIX, SUFFIX, MIDDLE} <= self._ids.keys()

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Where the filling is over, besides the end of the turn."""
        return frozenset(self._ids[text] for text in ENDS if text in self._ids)

    def encode(self, gap: Gap, most: int | None = None) -> tuple[int, ...]:
        """Ids of the whole prompt. Raises InvalidRequest where the model can't fill gaps, ContextExceeded where it is
        longer by far than `most` tokens.
        """
        if not self.supported:
            raise InvalidRequest(
                "This model has no tokens for filling in the middle, so it can't write what stands between a prefix "
                "and a suffix. Leave the suffix out, or serve a Qwen-Coder model."
            )
        pieces = [*self._repository(gap), (PREFIX, gap.prefix), (SUFFIX, gap.suffix), (MIDDLE, gap.begun)]
        texts = self._tokenizer.encode_many([text for _, text in pieces], most)
        ids: list[int] = []
        for (mark, _), text in zip(pieces, texts, strict=True):
            ids += [self._ids[mark], *text]
        return tuple(ids)

    def _repository(self, gap: Gap) -> list[tuple[str, str]]:
        if not gap.files and gap.repository is None and gap.path is None:
            return []
        if not {REPO_NAME, FILE_SEPARATOR} <= self._ids.keys():
            raise InvalidRequest(
                "This model has no tokens for several files of a repository. Leave the other files (input_extra) out."
            )
        files = [(FILE_SEPARATOR, f"{file.path}\n{file.text.rstrip()}\n") for file in gap.files]
        return [
            *([(REPO_NAME, f"{gap.repository}\n")] if gap.repository is not None else []),
            *files,
            *([(FILE_SEPARATOR, f"{gap.path}\n")] if gap.path is not None else []),
        ]


def _gap_starts(frame: str) -> Iterator[int]:
    """Where the gap of a frame with a repository may begin, likeliest first.

    That is the first line after one with a path, which is the rest of a line after a separator; else the first of the
    marks. Whatever fails there fails at all later ones too.
    """
    for found in LINE_WITH_GAP.finditer(frame):
        line = frame.rfind("\n", 0, found.start()) + 1
        if frame.find(FILE_SEPARATOR, line, found.start()) >= 0:
            yield found.end()
            break
    yield from sorted(start for mark, _ in ORDERS if (start := frame.find(mark)) >= 0)


class _Header(TypedDict):
    files: Sequence[RepositoryFile]
    repository: str | None
    path: str | None


def _header(text: str) -> _Header:
    """What stands before the gap: names and files of a repository."""
    before, *files = text.split(FILE_SEPARATOR)
    named = bool(files) and "\n" not in files[-1].removesuffix("\n")
    path = files.pop().removesuffix("\n") if named else None
    pieces = [file.partition("\n") for file in files]
    return {
        "files": [RepositoryFile(name, content) for name, _, content in pieces],
        "repository": before.removeprefix(REPO_NAME).removesuffix("\n") if before else None,
        "path": path,
    }
