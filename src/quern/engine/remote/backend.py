"""The servers in `engine.remote.urls`: found, asked what they can do, and watched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

import httpx2
import structlog

from quern.config_models import RemoteSettings
from quern.engine.completions.client import CompletionServer, ServerFacts
from quern.engine.completions.engine import Connected
from quern.engine.completions.request import Abilities
from quern.engine.remote.fleet import Fleet
from quern.engine.remote.probe import probe
from quern.engine.remote.replicas import Replicas
from quern.engine.served.backend import PROBE_INTERVAL_SECONDS, PROBES_UNTIL_LOST
from quern.errors import ConfigError, EngineFailed, ModelLoadError
from quern.grammar.compiler import Vocabulary

log = structlog.get_logger(__name__)


class RemoteServers:
    """Some or all of the servers answer. What one of them can't do is asked of none."""

    def __init__(self, settings: RemoteSettings, vocabulary: Vocabulary, *, connections: int) -> None:
        if settings.weights and len(settings.weights) != len(settings.urls):
            raise ConfigError("The setting engine.remote.weights has to have a number for each of engine.remote.urls.")
        self._urls = settings.urls
        self._weights = settings.weights or (1.0,) * len(settings.urls)
        self._key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
        self._health = settings.health
        self._vocabulary = vocabulary
        self._connections = connections
        self._servers: Sequence[CompletionServer] = ()
        self._replicas = Replicas(self._weights)
        self._abilities: Abilities | None = None
        self._facts: ServerFacts | None = None

    @property
    def expected_load_seconds(self) -> float:
        """They are loaded already, as far as we know."""
        return 1.0

    def progress(self) -> float:
        """Nothing tells."""
        return 0.0

    async def start(self) -> Connected:
        """Connect to those that answer. Raises ModelLoadError where none does, or none is of use."""
        asked = await self._ask_all()
        self._replicas = Replicas(self._weights)
        found: list[tuple[ServerFacts, Abilities]] = []
        for index, outcome in enumerate(asked):
            self._replicas[index].healthy = not isinstance(outcome, ModelLoadError)
            if isinstance(outcome, ModelLoadError):
                log.warning("remote_server_unusable", url=self._urls[index], error=str(outcome))
            else:
                found.append(outcome)
        if not found:
            await self.stop()
            raise ModelLoadError(" ".join(str(outcome) for outcome in asked))
        abilities = _common([abilities for _, abilities in found])
        facts = _together([facts for facts, _ in found])
        for server in self._servers:
            server.abilities = abilities
        self._abilities, self._facts = abilities, facts
        log.info("remote_servers", usable=len(found), of=len(self._urls), **asdict(abilities))
        if not abilities.salts:
            log.warning("remote_servers_share_their_cache_between_owners")
        urls = ", ".join(self._urls)
        return Connected(Fleet(self._servers, self._urls, self._replicas), facts, f"servers at {urls}", abilities)

    async def survey(self) -> Sequence[Abilities | ModelLoadError]:
        """What each of them can do, or why it is of no use; nothing is left connected."""
        try:
            asked = await self._ask_all()
        finally:
            await self.stop()
        return [outcome if isinstance(outcome, ModelLoadError) else outcome[1] for outcome in asked]

    async def lost(self) -> str:
        """Watch them; return once none has answered for a while."""
        missed = 0
        while missed < PROBES_UNTIL_LOST:
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)
            await asyncio.gather(*(self._look(index) for index in range(len(self._urls))))
            missed = 0 if self._replicas.any_healthy else missed + 1
        return f"None of the servers at {', '.join(self._urls)} answers any more."

    async def stop(self) -> None:
        """Disconnect."""
        for server in self._servers:
            await server.close()
        self._servers = ()

    def _connect(self) -> list[CompletionServer]:
        return [
            CompletionServer(url, self._key, connections=self._connections, trust_env=True, health=self._health)
            for url in self._urls
        ]

    async def _ask_all(self) -> Sequence[tuple[ServerFacts, Abilities] | ModelLoadError]:
        """Connect to all of them, and ask each."""
        self._servers = await asyncio.to_thread(self._connect)
        asked = await asyncio.gather(*(self._ask(index) for index in range(len(self._urls))), return_exceptions=True)
        outcomes: list[tuple[ServerFacts, Abilities] | ModelLoadError] = []
        for outcome in asked:
            if isinstance(outcome, BaseException) and not isinstance(outcome, ModelLoadError):
                raise outcome
            outcomes.append(outcome)
        return outcomes

    async def _ask(self, index: int) -> tuple[ServerFacts, Abilities]:
        """What a server holds and can do. Raises ModelLoadError with what to do about it."""
        server, url = self._servers[index], self._urls[index]
        try:
            if not await server.ready():
                msg = f"The server at {url} is still loading its model, or not well."
                raise ModelLoadError(msg)
            return await server.facts(), await probe(server, self._vocabulary)
        except ConnectionError as error:
            msg = f"No server answers at {url}. Start it there, or correct the setting engine.remote.urls."
            raise ModelLoadError(msg) from error
        except PermissionError as error:
            msg = f"The server at {url} refused our key. Set engine.remote.api_key to one of its API keys."
            raise ModelLoadError(msg) from error
        except EngineFailed as error:
            msg = f"The server at {url} can't be used. {error}"
            raise ModelLoadError(msg) from error
        except (httpx2.HTTPError, ValueError, LookupError, TypeError) as error:
            msg = (
                f"What answers at {url} does not speak vLLM's protocol: {error!r}. Correct the setting "
                f"engine.remote.urls; for a llama-server use engine.url."
            )
            raise ModelLoadError(msg) from error

    async def _look(self, index: int) -> None:
        """Whether a server answers. One that comes back may be another: it has to be able to do what the others can."""
        replica, server, url = self._replicas[index], self._servers[index], self._urls[index]
        try:
            ready = await server.ready()
        except ConnectionError:
            ready = False
        if ready and not replica.healthy:
            ready = await self._comes_back(index)
        if ready != replica.healthy:
            replica.healthy = ready
            log.info("remote_server_is_back", url=url) if ready else log.warning("remote_server_is_gone", url=url)

    async def _comes_back(self, index: int) -> bool:
        server, abilities = self._servers[index], self._abilities
        try:
            facts, able = await self._ask(index)
        except ModelLoadError as error:
            log.warning("remote_server_unusable", url=self._urls[index], error=str(error))
            return False
        server.abilities = abilities if abilities is not None else able
        context_length = self._facts.context_length if self._facts is not None else 0
        if _common([server.abilities, able]) != server.abilities or facts.context_length < context_length:
            log.warning("remote_server_differs", url=self._urls[index], **asdict(facts), **asdict(able))
            return False
        self._replicas.succeeded(index)
        return True


def _common(all_abilities: Sequence[Abilities]) -> Abilities:
    """What all of them can do."""
    return Abilities(
        grammars=all(one.grammars for one in all_abilities),
        salts=all(one.salts for one in all_abilities),
        priorities=all(one.priorities for one in all_abilities),
        logprobs=all(one.logprobs for one in all_abilities),
    )


def _together(all_facts: Sequence[ServerFacts]) -> ServerFacts:
    """What they hold together: the shortest context, and the sum of the caches where all tell theirs."""
    caches = [facts.kv_tokens for facts in all_facts]
    known = [tokens for tokens in caches if tokens is not None]
    return ServerFacts(
        all_facts[0].model,
        min(facts.context_length for facts in all_facts),
        sum(known) if len(known) == len(caches) else None,
    )
