"""Fill in the middle: what stands before and after a gap, as the model was trained to be shown them.

Source of the formats: the Qwen2.5-Coder technical report, "File-Level" and "Repo-Level Pretraining", and the model's
README. One file: `<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>`. Before that, with more of a repository,
`<|repo_name|>NAME`, then for each file `<|file_sep|>PATH` and its text on the lines after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from quern.errors import InvalidRequest
from quern.prompt.tokenizer import Tokenizer

PREFIX, SUFFIX, MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
REPO_NAME, FILE_SEPARATOR = "<|repo_name|>", "<|file_sep|>"
ENDS = (PREFIX, SUFFIX, "<|fim_pad|>", REPO_NAME, FILE_SEPARATOR)
"""What a model writes where the gap is filled and it goes on with something else."""

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
    to last; `path` is that of the file with the gap.
    """

    prefix: str
    suffix: str
    begun: str = ""
    files: Sequence[RepositoryFile] = ()
    repository: str = UNNAMED_REPOSITORY
    path: str = UNNAMED_FILE

    @classmethod
    def parse(cls, prompt: str) -> Self | None:
        """A whole frame that a client wrote out by itself, as many editor plug-ins do; None for any other text.

        The frame's own tokens are then tokens; everything between them stays text.
        """
        if prompt.startswith(REPO_NAME):
            return cls._parse_repository(prompt)
        if not prompt.startswith(PREFIX):
            return None
        prefix, suffix_mark, rest = prompt.removeprefix(PREFIX).partition(SUFFIX)
        suffix, middle_mark, begun = rest.rpartition(MIDDLE)
        return cls(prefix, suffix, begun) if suffix_mark and middle_mark else None

    @classmethod
    def _parse_repository(cls, prompt: str) -> Self | None:
        start, end = _path_before_gap(prompt)
        gap = cls.parse(prompt[end + 1 :]) if end >= 0 else None
        if gap is None:
            return None
        repository, *files = prompt[len(REPO_NAME) : start - len(FILE_SEPARATOR)].split(FILE_SEPARATOR)
        pieces = [file.partition("\n") for file in files]
        return replace(
            gap,
            files=[RepositoryFile(path, text) for path, _, text in pieces],
            repository=repository.removesuffix("\n"),
            path=prompt[start:end],
        )


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
        if not gap.files:
            return []
        if not {REPO_NAME, FILE_SEPARATOR} <= self._ids.keys():
            raise InvalidRequest(
                "This model has no tokens for several files of a repository. Leave the other files (input_extra) out."
            )
        files = [(FILE_SEPARATOR, f"{file.path}\n{file.text.rstrip()}\n") for file in gap.files]
        return [(REPO_NAME, f"{gap.repository}\n"), *files, (FILE_SEPARATOR, f"{gap.path}\n")]


def _path_before_gap(prompt: str) -> tuple[int, int]:
    """Where the path of the file with the gap begins and ends; -1 and -1 where there is none.

    A path is the rest of a line after a separator; the gap follows on the next line.
    """
    end = prompt.find(f"\n{PREFIX}")
    while end >= 0:
        separator = prompt.rfind(FILE_SEPARATOR, prompt.rfind("\n", 0, end) + 1, end)
        if separator >= 0:
            return separator + len(FILE_SEPARATOR), end
        end = prompt.find(f"\n{PREFIX}", end + 1)
    return -1, -1
