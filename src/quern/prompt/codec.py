"""A model's text as one object: conversations and gaps to token ids, the ids of answers to text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import structlog

from quern.errors import InvalidRequest, ModelError, ModelLoadError
from quern.grammar.tool_calls import ToolFormat, tool_format
from quern.modelfiles.description import ModelFacts
from quern.modelfiles.model import read_model
from quern.modelfiles.vocabulary import Vocabulary
from quern.prompt.chat import ChatEncoder
from quern.prompt.fim import GapEncoder
from quern.prompt.incremental_text import IncrementalText
from quern.prompt.isolated_template import IsolatedTemplate
from quern.prompt.template import CHATML, ChatTemplate, InProcessTemplate
from quern.prompt.tokenizer import Tokenizer, byte_vocabulary
from quern.types import Item, Tool

log = structlog.get_logger(__name__)


class TextCodec:
    """A model's tokenizer with its chat template: messages to ids, ids to text. Safe to use from several threads.

    `facts` are the model's, read from its files. `gaps` fills in the middle. `tool_format`: how the model writes calls;
    None where its template knows no tools. `close` frees a child process; it also ends by itself.
    """

    def __init__(
        self, facts: ModelFacts, tokenizer: Tokenizer, template: ChatTemplate, tool_format: ToolFormat | None
    ) -> None:
        self.facts = facts
        self.tokenizer = tokenizer
        self.gaps = GapEncoder(tokenizer)
        self.tool_format = tool_format
        self._template = template
        self._chat = ChatEncoder(tokenizer, template)

    @classmethod
    def load(cls, model_path: Path) -> Self:
        """Read a model, a GGUF file or a folder, and start its chat template. Takes about a second.

        Raises ModelNotFound, ModelCorrupt, or ModelLoadError where the model is of a kind that can't be served.
        """
        started = time.monotonic()
        model = read_model(model_path)
        tokenizer = Tokenizer(model.vocabulary)
        try:
            variables = _template_variables(model.vocabulary)
            template = IsolatedTemplate(model.chat_template, variables, tokenizer.special.ids)
            codec = cls(model.facts, tokenizer, template, tool_format(model.chat_template))
            codec._chat.try_out()
        except (InvalidRequest, ModelError) as error:
            raise ModelLoadError(f"The model {model_path} can't be served: {error}") from error
        log.info("vocabulary_loaded", model=model.facts.name, seconds=round(time.monotonic() - started, 2))
        return codec

    @classmethod
    def builtin(cls) -> Self:
        """Bytes as tokens and a ChatML template: for the fake engine, without a model file."""
        vocabulary = byte_vocabulary()
        facts = ModelFacts(
            architecture="bytes",
            name="built-in bytes",
            quantisation="none",
            context_length=32768,
            vocabulary_size=len(vocabulary.tokens),
            head_count=0,
            kv_heads=(),
            key_length=0,
            value_length=0,
        )
        tokenizer = Tokenizer(vocabulary)
        template = InProcessTemplate(CHATML, _template_variables(vocabulary), tokenizer.special.ids)
        return cls(facts, tokenizer, template, tool_format(CHATML))

    @property
    def vocabulary_size(self) -> int:
        """Tokens in the vocabulary, special and unused ones included."""
        return self.tokenizer.vocabulary_size

    @property
    def quantisation(self) -> str:
        """How the weights are stored, for people: `Q4_K_M`."""
        return self.facts.quantisation

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """An answer is over where the model generates one of these."""
        return self.tokenizer.end_of_turn_ids

    def encode_chat(
        self, items: Sequence[Item], tools: Sequence[Tool] = (), opening: str = "", most: int | None = None
    ) -> tuple[int, ...]:
        """Ids of a conversation, ready for the assistant's next message, which begins with `opening`.

        Takes milliseconds, a long history some hundreds, so call it in a thread. Raises InvalidRequest where the
        template refuses the conversation, ContextExceeded where it is longer by far than `most` tokens, ModelError
        where the template fails.
        """
        return self._chat.encode(items, tools, opening, most)

    def render_chat(self, items: Sequence[Item], tools: Sequence[Tool] = (), most: int | None = None) -> str:
        """The same as text, for people. Raises the same."""
        return self._chat.render(items, tools, most)

    def incremental_text(self, stops: Sequence[str] = ()) -> IncrementalText:
        """The text of one answer, from its ids. Raises InvalidRequest for an empty stop string."""
        return IncrementalText(self.tokenizer.token_bytes, stops)

    def close(self) -> None:
        """May be called twice."""
        self._template.close()


def _template_variables(vocabulary: Vocabulary) -> dict[str, str]:
    return {
        "bos_token": vocabulary.text(vocabulary.bos_id),
        "eos_token": vocabulary.text(vocabulary.eos_id),
        "pad_token": vocabulary.text(vocabulary.padding_id),
    }
