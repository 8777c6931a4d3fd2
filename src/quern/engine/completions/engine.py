"""The engine over servers that complete token ids: vLLM in a child process, and others that speak as it does."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from quern.config_models import EngineSettings
from quern.engine.base import EmbedRequest, EngineInfo, GenerateRequest, Vector
from quern.engine.completions.client import CompletionSource, ServerFacts
from quern.engine.completions.generation import CompletionRun
from quern.engine.completions.request import ALL, Abilities, Asked, restarts
from quern.engine.completions.salts import Salts
from quern.engine.served.backend import Backend
from quern.engine.served.continuation import Restarts
from quern.engine.served.engine import Room, ServedEngine
from quern.engine.slots import with_spare
from quern.errors import InvalidRequest
from quern.grammar.compiler import CompiledGrammar, Vocabulary
from quern.grammar.json_schema import Llguidance

LONGEST_CONTEXT = 32768
RESERVED_OF_ANSWER = 1024
"""Tokens of an answer's limit that a sequence is let in with, at most: few answers are longer. Where all are, the
server sets some aside by itself and computes them again later.
"""


@dataclass(frozen=True, slots=True)
class Connected:
    """A source that is ready. `device` is for people."""

    source: CompletionSource
    facts: ServerFacts
    device: str
    abilities: Abilities = ALL


class CompletionsEngine(ServedEngine[Connected]):
    """Serves one model by what `backend` starts or finds.

    `name`: the engine's, by which it refuses what it lacks. `quantisation` and `model_id` are for people. `vocabulary`:
    the tokens that its prompts are made of. `llguidance`: whose keeps answers to their grammars there.
    """

    def __init__(
        self,
        backend: Backend[Connected],
        *,
        name: str,
        model_id: str,
        quantisation: str,
        settings: EngineSettings,
        vocabulary: Vocabulary,
        llguidance: Llguidance = Llguidance.VLLM,
    ) -> None:
        self.name = name
        self._model_id = model_id
        self._quantisation = quantisation
        self._settings = settings
        self._end_ids = vocabulary.end_of_turn_ids
        self._salts = Salts()
        super().__init__(backend, vocabulary, llguidance=llguidance)

    def forget(self, tags: Set[str]) -> None:
        """Find none of it again; the server overwrites it when it needs the room. See `Engine.forget`."""
        self._salts.forget(tags)

    async def embed(self, request: EmbedRequest) -> Vector:
        """Not with this engine. Raises InvalidRequest."""
        del request
        msg = f"The engine {self.name} makes no embeddings. Serve the model with cpu or llamacpp (engine.name)."
        raise InvalidRequest(msg)

    def _describe(self, ready: Connected) -> EngineInfo:
        return EngineInfo(
            engine=self.name,
            model_id=self._model_id,
            context_length=min(self._settings.context_length or LONGEST_CONTEXT, ready.facts.context_length),
            vocabulary_size=self._vocabulary.vocabulary_size,
            parallel=self._settings.parallel,
            device=ready.device,
            quantisation=self._quantisation,
        )

    def _room(self, ready: Connected) -> Room:
        """Where the server does not tell its cache, it has room for all."""
        most = self._settings.parallel * self.info.context_length
        kv_tokens = most if ready.facts.kv_tokens is None else ready.facts.kv_tokens
        return Room(max(kv_tokens, self.info.context_length), with_spare(self._settings.parallel))

    def _reserved(self, prompt_tokens: int, max_tokens: int) -> int:
        return prompt_tokens + min(max_tokens, RESERVED_OF_ANSWER)

    def _run(self, ready: Connected, request: GenerateRequest, grammar: CompiledGrammar | None) -> CompletionRun:
        request = replace(request, cache_salt=self._salts.of(request))
        asked = Asked(request, self._end_ids, grammar.lark if grammar is not None else None)
        return CompletionRun(asked, ready.source, grammar)

    def _restarts(self, request: GenerateRequest) -> Restarts | None:
        return restarts(request)

    def _no_grammars(self, ready: Connected) -> str:
        if ready.abilities.grammars:
            return ""
        return (
            f"The server that the engine {self.name} uses does not keep answers to grammars, so neither the form of an "
            f"answer nor a call of a tool can be demanded of it. Use a vLLM there that was started with "
            f'--structured-outputs-config \'{{"backend": "guidance"}}\', or the engine cpu (engine.name).'
        )

    def _silent_seconds(self) -> float:
        """These servers say nothing while they compute a long prompt, so silence tells nothing."""
        return 0.0
