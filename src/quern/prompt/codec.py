"""A model's text as one object: conversations and gaps to token ids, the ids of answers to text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Self

import structlog

from quern.errors import InvalidRequest, ModelError, ModelLoadError
from quern.grammar.tool_calls import ToolFormat, tool_format
from quern.modelfiles.description import ModelFacts
from quern.modelfiles.model import read_model
from quern.modelfiles.sizes import size_on_disk
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
    None where its template knows no tools; `template_text`: the template itself. `size_bytes`: what its files take on
    the disk. `ending_id`: what follows every text that is embedded. `close` frees a child process; it also ends by
    itself.

    A model that makes embeddings is never asked to write, so its codec has no chat template of its own.
    """

    def __init__(
        self,
        facts: ModelFacts,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        tool_format: ToolFormat | None,
        *,
        template_text: str = "",
        size_bytes: int = 0,
        ending_id: int | None = None,
    ) -> None:
        self.facts = facts
        self.size_bytes = size_bytes
        self.tokenizer = tokenizer
        self._ending_id = ending_id
        self.gaps = GapEncoder(tokenizer)
        self.tool_format = tool_format
        self.template_text = template_text
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
        variables = _template_variables(model.vocabulary)
        if model.facts.embeds:
            template = InProcessTemplate(CHATML, variables, tokenizer.special.ids)
            size = size_on_disk(model_path)
            return cls(model.facts, tokenizer, template, None, size_bytes=size, ending_id=model.vocabulary.ending_id)
        try:
            template = IsolatedTemplate(model.chat_template, variables, tokenizer.special.ids)
            codec = cls(
                model.facts,
                tokenizer,
                template,
                tool_format(model.chat_template),
                template_text=model.chat_template,
                size_bytes=size_on_disk(model_path),
            )
            codec._chat.try_out()
        except (InvalidRequest, ModelError) as error:
            raise ModelLoadError(f"The model {model_path} can't be served: {error}") from error
        log.info("vocabulary_loaded", model=model.facts.name, seconds=round(time.monotonic() - started, 2))
        return codec

    @classmethod
    def builtin(cls, *, embedding_length: int = 0) -> Self:
        """Bytes as tokens and a ChatML template: for the fake engine, without a model file. With an `embedding_length`
        it is a model's for embeddings.
        """
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
            embedding_length=embedding_length,
        )
        tokenizer = Tokenizer(vocabulary)
        template = _builtin_template()
        if facts.embeds:
            return cls(facts, tokenizer, template, None, ending_id=vocabulary.padding_id)
        return cls(facts, tokenizer, template, tool_format(CHATML), template_text=CHATML)

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
        self,
        items: Sequence[Item],
        tools: Sequence[Tool] = (),
        opening: str = "",
        *,
        prefill: str = "",
        most: int | None = None,
    ) -> tuple[int, ...]:
        """Ids of a conversation, ready for the assistant's next message, which begins with `prefill` and `opening`.

        Takes milliseconds, a long history some hundreds, so call it in a thread. Raises InvalidRequest where the
        template refuses the conversation, ContextExceeded where it is longer by far than `most` tokens, ModelError
        where the template fails.
        """
        return self._chat.encode(items, tools, opening, prefill=prefill, most=most)

    def render_chat(self, items: Sequence[Item], tools: Sequence[Tool] = (), most: int | None = None) -> str:
        """The same as text, for people. Raises the same."""
        return self._chat.render(items, tools, most)

    def encode_whole(self, given: str | tuple[int, ...]) -> tuple[int, ...]:
        """Ids of a text, or ids, as a model for embeddings reads them: its end of a text follows, once.

        Clients write that end themselves, by its name, where other servers don't add it. Nothing else in a text is a
        special token.
        """
        if self._ending_id is None:
            return tuple(self.tokenizer.encode(given)) if isinstance(given, str) else given
        if isinstance(given, str):
            ids = self.tokenizer.encode(given.removesuffix(self._ending_text))
        elif given[-1:] == (self._ending_id,):
            return given
        else:
            ids = given
        return (*ids, self._ending_id)

    def incremental_text(self, stops: Sequence[str] = ()) -> IncrementalText:
        """The text of one answer, from its ids. Raises InvalidRequest for an empty stop string."""
        return IncrementalText(self.tokenizer.token_bytes, stops)

    @property
    def _ending_text(self) -> str:
        names = (text for text, token_id in self.tokenizer.special.control.items() if token_id == self._ending_id)
        return next(names, "")

    def close(self) -> None:
        """May be called twice."""
        self._template.close()


@cache
def _builtin_template() -> InProcessTemplate:
    """Compiled once, since tests start hundreds of servers in one process."""
    vocabulary = byte_vocabulary()
    return InProcessTemplate(CHATML, _template_variables(vocabulary), Tokenizer(vocabulary).special.ids)


def _template_variables(vocabulary: Vocabulary) -> dict[str, str]:
    return {
        "bos_token": vocabulary.text(vocabulary.bos_id),
        "eos_token": vocabulary.text(vocabulary.eos_id),
        "pad_token": vocabulary.text(vocabulary.padding_id),
    }
