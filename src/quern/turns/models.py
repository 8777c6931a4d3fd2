"""The models that are served: each with what runs it and what makes its prompts, found by the names of requests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from quern.engine.base import Engine, EngineInfo, EngineState
from quern.engine.residency import OnDemandEngine
from quern.errors import EngineUnavailable, ModelNotServed
from quern.grammar.grammar_choice import GrammarChoice
from quern.prompt.codec import TextCodec
from quern.turns.preparation import Prompts
from quern.turns.tokens import TokenService

ANY_NAME = "*"
"""An alias that stands for every name."""

PARAMETER_SIZE = re.compile(r"(?i)(?:^|[-_])(\d+(?:\.\d+)?b)(?:$|[-_:])")


class ServedModel:
    """One model. `name`: its id, which requests ask for and turns remember; `aliases`: further names that it has.
    `reason`: why this engine was chosen, as a sentence, where the settings leave that open. `prompts`, `grammars`,
    `tokens`: what is made of texts for it.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        codec: TextCodec,
        aliases: frozenset[str] = frozenset(),
        reason: str = "",
    ) -> None:
        self.reason = reason
        self.name = name
        self.engine = engine
        self.codec = codec
        self.aliases = aliases - {name, ANY_NAME}
        self.any_name = ANY_NAME in aliases
        self.prompts = Prompts(codec, lambda: engine.info.context_length)
        self.grammars = GrammarChoice(engine.check_grammar, codec.tool_format)
        self.tokens = TokenService(codec, engine)

    @property
    def info(self) -> EngineInfo:
        """What the engine serves. Raises EngineUnavailable while that is not known."""
        return self.engine.info

    @property
    def info_so_far(self) -> EngineInfo | None:
        """The same; None while it is not known."""
        try:
            return self.engine.info
        except EngineUnavailable:
            return None

    @property
    def available(self) -> bool:
        """Whether it can be asked now."""
        state = self.engine.stats().state
        return state is EngineState.READY or (self.comes_when_asked and state is not EngineState.CLOSED)

    @property
    def comes_when_asked(self) -> bool:
        """Whether who asks for it while it is not loaded waits until it is."""
        return isinstance(self.engine, OnDemandEngine)

    async def known(self) -> None:
        """Return once its `info` is known, which may take a load. Raises EngineUnavailable."""
        if isinstance(self.engine, OnDemandEngine) and not self.engine.seen:
            await self.engine.ask()

    @property
    def embedding_length(self) -> int | None:
        """The numbers in a vector of a model that makes embeddings; None for one that writes text."""
        return self.codec.facts.embedding_length or None

    @property
    def fills_gaps(self) -> bool:
        """Whether it can fill in the middle."""
        return self.codec.gaps.supported and not self.codec.facts.embeds

    @property
    def quantisation(self) -> str:
        """How its weights are stored, for people."""
        info = self.info_so_far
        return self.codec.quantisation if info is None else info.quantisation

    @property
    def loaded(self) -> bool:
        """Whether it is in memory."""
        return self.engine.stats().state is EngineState.READY

    @property
    def chat_template(self) -> str:
        """Its chat template, as it is in the model's files."""
        return self.codec.template_text

    @property
    def calls_tools(self) -> bool:
        """Whether its template knows tools."""
        return self.codec.tool_format is not None

    @property
    def architecture(self) -> str:
        """Its kind of network, as its files name it."""
        return self.codec.facts.architecture

    @property
    def size_bytes(self) -> int:
        """Its size on the disk."""
        return self.codec.size_bytes

    @property
    def parameter_size(self) -> str:
        """How many parameters it has, as far as its name says: `1.5B`."""
        named = PARAMETER_SIZE.search(self.name)
        return named[1].upper() if named is not None else ""


class Models:
    """All of them; the first one is the default."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = tuple(models)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    @property
    def default(self) -> ServedModel:
        """The one for requests that name none."""
        return self._models[0]

    def by_id(self, name: str) -> ServedModel | None:
        """The one of this id."""
        return next((model for model in self._models if model.name == name), None)

    def find(self, name: str | None) -> ServedModel:
        """The one that a request asks for. An empty name asks for none: llama.vim sends it where nothing is configured.

        Raises ModelNotServed.
        """
        if not name:
            return self.default
        found = self.by_id(name) or next((model for model in self._models if name in model.aliases), None)
        found = found or next((model for model in self._models if model.any_name), None)
        if found is not None:
            return found
        served = " and ".join(repr(model.name) for model in self._models)
        one = len(self._models) == 1
        raise ModelNotServed(
            f"The model {name!r} is not served here; {served} {'is' if one else 'are'}. Ask for "
            f"{'that one' if one else 'one of those'}, or let the server take this name for it too (setting "
            f"model.aliases)."
        )
