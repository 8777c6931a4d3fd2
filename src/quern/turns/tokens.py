"""Texts, gaps and conversations as token ids, and ids as text again: for prompts that no template is for, and for
clients that budget.

Text is text: where it says `<|im_end|>`, no token comes of it. The one exception is a text that is a whole frame for
filling in the middle, as many editor plug-ins write it by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from quern.engine.base import Engine, Priority
from quern.errors import ContextExceeded
from quern.prompt.codec import TextCodec
from quern.prompt.fim import UNNAMED_FILE, UNNAMED_REPOSITORY, Gap, RepositoryFile
from quern.turns.preparation import check_ids, check_writes, prepare
from quern.turns.request import ChatInput, TokenInput

TextOrIds = str | tuple[int, ...]
TextAndIds = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt for the engine, its text for people, and how urgent its answer is."""

    text: str
    input: TokenInput
    priority: Priority = Priority.NORMAL

    def in_background(self) -> Self:
        """The same behind everybody else's: nobody waits for the answer."""
        return replace(self, priority=Priority.BACKGROUND)


class TokenService:
    """Encodes and decodes with the served model's vocabulary. Safe to use from several threads.

    Every method takes milliseconds, for long texts some hundreds, so call it in a thread.
    """

    def __init__(self, codec: TextCodec, engine: Engine) -> None:
        self._codec = codec
        self._engine = engine

    @property
    def _most(self) -> int:
        """Tokens of a prompt: what is longer by far is given up early, with a ContextExceeded."""
        return self._engine.info.context_length

    def encode_prompt(self, given: TextOrIds) -> EncodedPrompt:
        """A prompt to continue, or a gap to fill where the text is a whole frame of one.

        Raises InvalidRequest for ids that the model doesn't have, ContextExceeded for a text that is too long.
        """
        tokenizer = self._codec.tokenizer
        if not isinstance(given, str):
            if len(given) > self._most:
                raise ContextExceeded(len(given), 0, self._most)
            check_ids(given, self._codec.vocabulary_size, "prompt")
            return EncodedPrompt(tokenizer.decode(given), TokenInput(given))
        gap = Gap.parse(given) if self._codec.gaps.supported else None
        if gap is not None:
            return self._encode_gap(gap, given)
        return EncodedPrompt(given, TokenInput(tuple(tokenizer.encode_many([given], self._most)[0])))

    def encode_parts(self, parts: Sequence[str | int]) -> EncodedPrompt:
        """A prompt to continue, of texts and ids one after the other; a single text may be a whole frame of a gap.

        Raises InvalidRequest for ids that the model doesn't have.
        """
        if len(parts) == 1 and isinstance(parts[0], str):
            return self.encode_prompt(parts[0])
        texts = iter(self._codec.tokenizer.encode_many([part for part in parts if isinstance(part, str)], self._most))
        pieces = [next(texts) if isinstance(part, str) else (part,) for part in parts]
        ids = tuple(token for piece in pieces for token in piece)
        return EncodedPrompt(self.decode(ids, "prompt"), TokenInput(ids))

    def encode_gap(
        self, prefix: str, suffix: str, *, begun: str = "", files: Sequence[tuple[str, str]] = ()
    ) -> EncodedPrompt:
        """A gap to fill. `begun`: how the filling begins. `files`: paths and texts of other files of the repository,
        the most useful last.

        Raises InvalidRequest where the model can't fill gaps, ContextExceeded where the texts are too long.
        """
        context = tuple(RepositoryFile(path, text) for path, text in files)
        names = (UNNAMED_REPOSITORY, UNNAMED_FILE) if context else (None, None)
        return self._encode_gap(Gap(prefix, suffix, begun, context, *names), prefix)

    def encode_chat(self, chat: ChatInput) -> tuple[int, ...]:
        """Ids of a conversation, ready for its answer. Raises InvalidRequest, ContextExceeded where it is too long,
        ModelError where the template fails.
        """
        return prepare(self._codec, [], chat, self._most).ids

    def render_chat(self, chat: ChatInput) -> str:
        """The same as text, for people. Raises the same."""
        check_writes(self._codec)
        return self._codec.render_chat(chat.items, chat.tool_use.tools, self._most) + chat.prefill

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """What each token stands for; a special one for its name."""
        names = {token: name.encode() for name, token in self._codec.tokenizer.special.control.items()}
        return [names[token] if token in names else self._codec.tokenizer.token_bytes(token) for token in ids]

    def decode(self, ids: Sequence[int], field: str) -> str:
        """The text of the ids in a field, special tokens by their names. Raises InvalidRequest for ids that the model
        doesn't have.
        """
        check_ids(ids, self._codec.vocabulary_size, field)
        return b"".join(self.pieces(ids)).decode(errors="replace")

    def _encode_gap(self, gap: Gap, text: str) -> EncodedPrompt:
        gaps = self._codec.gaps
        # Somebody who types waits for a gap to be filled.
        return EncodedPrompt(text, TokenInput(gaps.encode(gap, self._most), gaps.stop_token_ids), Priority.INTERACTIVE)
