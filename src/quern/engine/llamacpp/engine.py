"""The llama.cpp engine: GGUF models through llama-server, in a child process of ours or at `engine.url`."""

from __future__ import annotations

import math
from collections.abc import Set
from pathlib import Path

from quern.config_models import EngineSettings
from quern.engine.base import EmbedRequest, EngineInfo, GenerateRequest, Vector
from quern.engine.llamacpp.backend import Connected, RemoteServer
from quern.engine.llamacpp.embedding_call import EmbeddingCall
from quern.engine.llamacpp.process import InferenceProcess
from quern.engine.llamacpp.request import restarts
from quern.engine.llamacpp.slot_generation import SlotGeneration
from quern.engine.served.backend import Backend
from quern.engine.served.continuation import Restarts
from quern.engine.served.engine import Room, ServedEngine
from quern.engine.slots import SlotTable, with_spare
from quern.errors import ModelLoadError
from quern.grammar.compiler import CompiledGrammar, Vocabulary
from quern.grammar.json_schema import Llguidance
from quern.machine import usable_cores

LONGEST_CONTEXT = 32768
DEFAULT_BATCH_TOKENS = 128
NO_LLGUIDANCE = (
    "The llama-server at engine.url does not keep answers to llguidance's grammars, so neither the form of an answer "
    "nor a call of a tool can be demanded of it. Run a llama-server there that is built with LLAMA_LLGUIDANCE, or use "
    "the engine cpu (engine.name)."
)


class LlamaCppEngine(ServedEngine[Connected]):
    """Serves one GGUF file, on slots that we choose.

    `quantisation` and `model_id` are for people. `vocabulary`: the tokens that its prompts are made of; a server at
    `settings.url` with more or fewer holds another model. `embeds`: the model makes embeddings, and writes no text.
    """

    name = "llamacpp"

    def __init__(
        self,
        model_path: Path,
        *,
        model_id: str,
        quantisation: str,
        settings: EngineSettings,
        vocabulary: Vocabulary,
        embeds: bool = False,
    ) -> None:
        self._embeds = embeds
        # llama-server wants room for one token more, also where none is drawn.
        self._kept_free = int(embeds)
        self._model_id = model_id
        self._quantisation = quantisation
        self._settings = settings
        self._longest = min(settings.context_length or LONGEST_CONTEXT, settings.kv_tokens)
        self._slots = SlotTable(0)
        self._embedding: set[EmbeddingCall] = set()
        super().__init__(
            self._choose_backend(model_path),
            vocabulary,
            llguidance=Llguidance.LLAMA_CPP,
            # A server of somebody else's may take larger steps, and works for others meanwhile.
            most_silent=settings.stuck_seconds if settings.url is None else math.inf,
        )

    def forget(self, tags: Set[str]) -> None:
        """Ask for none of it again; llama-server overwrites it when the slot is next used. See `Engine.forget`."""
        self._slots.forget(tags)

    async def embed(self, request: EmbedRequest) -> Vector:
        """The embedding of one sequence; see `Engine.embed`."""
        gate, place = self._arrive(request, 0, resumable=False)
        call: EmbeddingCall | None = None
        try:
            await gate.turn(place)
            call = EmbeddingCall(self._server().server, self._embedding)
            vector = await call.embed(request.prompt)
        except ConnectionError as error:
            raise self._unavailable() from error
        else:
            gate.embedded(place)
            return vector
        finally:
            self._releases.leave(gate, place, call)

    def _choose_backend(self, model_path: Path) -> Backend[Connected]:
        settings = self._settings
        if settings.url is not None:
            key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
            return RemoteServer(settings.url, key, self._most_slots(), embeds=self._embeds)
        return InferenceProcess(
            model_path,
            slots=self._most_slots(),
            kv_tokens=settings.kv_tokens,
            sequence_tokens=self._longest + self._kept_free,
            threads=settings.threads or usable_cores(),
            batch_tokens=settings.batch_tokens or DEFAULT_BATCH_TOKENS,
            hung_seconds=settings.hung_seconds,
            embeds=self._embeds,
        )

    def _most_slots(self) -> int:
        """Some to spare, but not more than can each have their own part of the cache where `parallel` can: one pool for
        all costs more. On a server of somebody else's that is its own business. Embeddings never give way.
        """
        parallel, url = self._settings.parallel, self._settings.url
        parts = self._settings.kv_tokens // (self._longest + self._kept_free)
        if self._embeds:
            return parallel
        return with_spare(parallel) if url is not None or parts < parallel else min(with_spare(parallel), parts)

    def _describe(self, ready: Connected) -> EngineInfo:
        facts = ready.facts
        size = self._vocabulary.vocabulary_size
        if facts.vocabulary_size != size:
            msg = (
                f"The inference server's model has {facts.vocabulary_size} tokens in its vocabulary and "
                f"{self._model_id} has {size}: they are not the same model. Let the server at "
                f"engine.url load the model that model.name names."
            )
            raise ModelLoadError(msg)
        return EngineInfo(
            engine=self.name,
            model_id=self._model_id,
            context_length=min(self._longest, facts.context_length - self._kept_free),
            vocabulary_size=facts.vocabulary_size,
            parallel=min(self._settings.parallel, facts.slots),
            device=ready.device,
            quantisation=self._quantisation,
        )

    def _room(self, ready: Connected) -> Room:
        slots = min(self._most_slots(), ready.facts.slots)
        self._slots = SlotTable(slots)
        return Room(min(self._settings.kv_tokens, ready.facts.slots * ready.facts.context_length), slots)

    def _run(self, ready: Connected, request: GenerateRequest, grammar: CompiledGrammar | None) -> SlotGeneration:
        return SlotGeneration(request, ready.server, self._slots, grammar=grammar)

    def _restarts(self, request: GenerateRequest) -> Restarts | None:
        return restarts(request)

    def _no_grammars(self, ready: Connected) -> str:
        return "" if ready.keeps_to_grammars else NO_LLGUIDANCE
