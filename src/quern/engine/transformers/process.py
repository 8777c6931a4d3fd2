"""Transformers as a child process, from an environment of its own: started, listened to, and when it is gone explained.

The child is a program of ours (`child/`) and speaks the protocol of `completions`, so the engine over it is that one.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from quern.config_models import EngineSettings
from quern.engine.completions.child import CompletionsChild
from quern.engine.completions.client import ServerFacts
from quern.engine.completions.engine import LONGEST_CONTEXT, Connected
from quern.engine.completions.request import Abilities
from quern.engine.environments.place import environment_python
from quern.engine.served.child_process import ChildProcess, how_it_ended, last_words
from quern.engine.slots import with_spare
from quern.engine.transformers.child import __main__ as child_main
from quern.engine.transformers.child.http import MODEL
from quern.engine.transformers.child.serve import ChildConfig
from quern.errors import ModelLoadError
from quern.modelfiles.description import ModelFacts

log = structlog.get_logger(__name__)

EXPECTED_SECONDS = 30.0
ENVIRONMENT = "transformers"
VARIABLES: Mapping[str, str] = {
    # A model is a folder here; nothing is fetched, and nobody is told.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    # How long OpenMP's threads wait for each other by spinning: as with llama.cpp, where anything else wants a core,
    # the library's own many rounds are ten times slower.
    "GOMP_SPINCOUNT": "1000",
}
NOT_FOUND = (
    "Transformers is not installed: there is no {path}. `quern engines install transformers` makes an environment with "
    "it (--cpu where there is no GPU), or name one in the setting engine.transformers.command."
)
ADVICE = {
    "No module named": (
        "The environment that it was started from is not whole: `quern engines install transformers` makes one."
    ),
    "out of memory": (
        "The GPU has not enough memory for the weights and the KV cache: lower engine.kv_tokens, or choose a smaller "
        "model."
    ),
    "allocate memory": (
        "The machine has not enough memory for the weights and the KV cache: lower engine.kv_tokens, or choose a "
        "smaller model."
    ),
    "trust_remote_code": (
        "The model's folder has a program of its own, which is run only with the setting "
        "engine.transformers.trust_remote_code; look at it first."
    ),
}


class TransformersProcess(CompletionsChild):
    """One child at a time, which asks for a key.

    `facts`: of the model in the folder `model`, of which `end_ids` end an answer.
    """

    def __init__(
        self, model: Path, *, facts: ModelFacts, end_ids: Iterable[int], settings: EngineSettings, engines_dir: Path
    ) -> None:
        super().__init__(ENVIRONMENT, settings)
        self._model = model
        self._end_ids = sorted(end_ids)
        self._engines_dir = engines_dir
        self._sequence_tokens = min(settings.context_length or LONGEST_CONTEXT, facts.context_length)
        self._kv_tokens = max(settings.kv_tokens, self._sequence_tokens)
        self._progress = 0.0

    @property
    def expected_load_seconds(self) -> float:
        """A guess; the child tells more."""
        return EXPECTED_SECONDS

    def progress(self) -> float:
        """As the child tells it: how much of the weights is in memory."""
        return self._progress

    async def _start(self) -> Connected:
        self._progress = 0.0
        python = await asyncio.to_thread(find_python, self._settings.transformers.command, self._engines_dir)
        socket, key = await self._new_socket(), secrets.token_urlsafe(32)
        self._child = child = await ChildProcess.start(
            (str(python), "-P", child_main.__file__), on_line=_listen, variables=VARIABLES
        )
        child.write_line(json.dumps(asdict(self._config(str(socket), key))).encode())
        ready = await self._wait_until_ready(child)
        server = await self._connect(socket, key)
        self._progress = 1.0
        server.model, server.abilities = MODEL, Abilities(progress=True)
        facts = ServerFacts(MODEL, ready["context_length"], self._kv_tokens)
        return Connected(server, facts, ready["device"], server.abilities)

    def _config(self, socket: str, key: str) -> ChildConfig:
        settings = self._settings
        return ChildConfig(
            model=str(self._model),
            api_key=key,
            socket=socket,
            parallel=with_spare(settings.parallel),
            kv_tokens=self._kv_tokens,
            sequence_tokens=self._sequence_tokens,
            batch_tokens=settings.batch_tokens or 0,
            end_ids=self._end_ids,
            threads=settings.threads or 0,
            device=settings.transformers.device,
            dtype=settings.transformers.dtype,
            trust_remote_code=settings.transformers.trust_remote_code,
        )

    async def _wait_until_ready(self, child: ChildProcess) -> Mapping[str, Any]:
        """The line that says that the child is ready."""
        while line := await child.read_line():
            told = json.loads(line)
            if "address" in told:
                return told
            self._progress = told["progress"]
        code = await child.ended()
        raise ModelLoadError(explain(code, child.last_lines, self._model))


def find_python(command: str | None, engines_dir: Path) -> Path:
    """The interpreter of an environment with Transformers. `command`: it, or its environment's folder.

    Raises ModelLoadError where there is none.
    """
    if command is None:
        python = environment_python(engines_dir, ENVIRONMENT)
        if python is None:
            raise ModelLoadError(NOT_FOUND.format(path=engines_dir / ENVIRONMENT))
        return python
    named = Path(shutil.which(command) or command).expanduser()
    python = named.resolve() / "bin" / "python" if named.is_dir() else named
    if not python.exists():
        msg = f"There is no {python}, which the setting engine.transformers.command names. Correct it, or leave it out."
        raise ModelLoadError(msg)
    return python


def explain(code: int, lines: Sequence[str], model: Path) -> str:
    """Why a child ended with `code` (negative: a signal) before it was ready, and what to do."""
    advice = next((f" {advice}" for sign, advice in ADVICE.items() if any(sign in line for line in lines)), "")
    return (
        f"Transformers could not serve the model {model}: its process {how_it_ended(code)}.{advice}{last_words(lines)}"
    )


def _listen(line: str) -> None:
    log.debug("transformers_log", line=line)
