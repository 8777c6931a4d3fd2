"""A chat template in a child process, because it is a program that came with the model.

Jinja's sandbox keeps a template from reaching Python, but not from looping for ever or filling the memory, and nothing
inside one process stops that for sure. So a model's template runs in a process of its own, without secrets in its
environment, with little memory and with a deadline. The process stays for all requests.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence

import structlog

from quern.errors import InvalidRequest, ModelError
from quern.line_process import EndedFromOutside, LineProcess
from quern.prompt.template import MOST_OUTPUT, Json

log = structlog.get_logger(__name__)

SECONDS = 10.0
"""For one prompt: a template needs milliseconds, the rest is for a machine that is busy with inference."""

MOST_REPLY = 12 * MOST_OUTPUT  # JSON writes a character beyond the BMP as twelve bytes
ENDED = (
    "The process that renders the model's chat template ended unexpectedly; nothing was generated. Try again; if it "
    "happens again, free some memory or use another file of the model."
)
ERRORS = {"InvalidRequest": InvalidRequest, "ModelError": ModelError}


class IsolatedTemplate:
    """A ChatTemplate that can't hang or fill the memory. Safe to use from several threads, one prompt at a time.

    `variables` and `special` as for an InProcessTemplate, `seconds` for each prompt. Raises ModelError where the
    template can't be parsed.
    """

    def __init__(
        self, source: str, variables: Mapping[str, str], special: Iterable[str] = (), *, seconds: float = SECONDS
    ) -> None:
        self._opening = json.dumps({"source": source, "variables": dict(variables), "special": list(special)})
        self._seconds = seconds
        self._lock = threading.Lock()
        self._worker = _Worker(self._opening, seconds)

    def render(self, messages: Sequence[Json], tools: Sequence[Json] = ()) -> str:
        """See ChatTemplate."""
        request = json.dumps({"messages": list(messages), "tools": list(tools)})
        with self._lock:
            try:
                return self._ready_worker().ask(request)
            except EndedFromOutside:
                log.warning("chat_template_worker_killed")
                return self._ready_worker().ask_once_more(request)

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            self._worker.end()

    def _ready_worker(self) -> _Worker:
        if not self._worker.alive:
            log.warning("chat_template_worker_restarts")
            self._worker = _Worker(self._opening, self._seconds)
        return self._worker


class _Worker:
    """One child process and the conversation with it. Raises ModelError where it can't be started."""

    def __init__(self, opening: str, seconds: float) -> None:
        self._seconds = seconds
        try:
            self._process = LineProcess("quern.prompt.template_worker", most_reply=MOST_REPLY)
        except OSError as error:
            raise ModelError(
                f"The process that renders the model's chat template can't be started ({error.strerror}). Free some "
                f"memory and try again."
            ) from error
        self.ask_once_more(opening)

    @property
    def alive(self) -> bool:
        return self._process.alive

    def end(self) -> None:
        self._process.end()

    def ask(self, request: str) -> str:
        """Send one line, return the text of the reply. Raises what the worker raised, EndedFromOutside where somebody
        has ended the process, and ModelError without a reply; the process is gone then.
        """
        try:
            return _text(self._process.ask(request.encode(), self._seconds))
        except TimeoutError:
            raise ModelError(
                f"The model's chat template did not finish within {self._seconds:g} seconds and was stopped; nothing "
                f"was generated. If this happens again, use another file of the model."
            ) from None
        except EndedFromOutside:
            raise
        except EOFError:
            raise ModelError(ENDED) from None

    def ask_once_more(self, request: str) -> str:
        """The same, but for EndedFromOutside: a ModelError too."""
        try:
            return self.ask(request)
        except EndedFromOutside:
            raise ModelError(ENDED) from None


def _text(reply: bytes) -> str:
    message = json.loads(reply)
    if "error" in message:
        raise ERRORS[message["error"]](message["message"])
    return message["text"]
