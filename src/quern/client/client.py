"""The client: one connection a request, plain text in, plain text out."""

from __future__ import annotations

import ipaddress
from types import TracebackType
from typing import Self, Unpack

import httpx2
from pydantic import BaseModel, ValidationError

from quern.client.answer import AnswerStream
from quern.client.failures import refusal, translated, unexpected
from quern.errors import ConfigError
from quern.sampling import PlainSampling
from quern.types import DisconnectPolicy

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 600.0
TEXT_TYPES = frozenset({"text/plain", "text/event-stream"})


class GenerationOptions(PlainSampling, total=False):
    """What a request may say about its answer; None, like leaving it out, means the server's default."""

    stop: list[str] | None


class ServedModel(BaseModel):
    """A model that the server offers, and what runs it: `parallel` turns at once, with `context_length` tokens each."""

    id: str
    context_length: int | None = None
    quantisation: str | None = None
    engine: str | None = None
    device: str | None = None
    parallel: int | None = None


class ServerState(BaseModel):
    """What the server does now. `status` is `loading`, `ready`, `restarting`, `stuck` or `stopping`; `load_progress` is
    0 to 1; `running` and `waiting` count turns.
    """

    status: str
    load_progress: float = 0.0
    running: int = 0
    waiting: int = 0


class _ModelList(BaseModel):
    data: list[ServedModel]


class QuernClient:
    """Calls one Quern server. A context manager; use it from one thread at a time.

    `base_url` is like `http://127.0.0.1:8001`; ConfigError if it can't be one. `read_timeout` (seconds) limits the
    silence between two pieces of an answer, waiting in the server's queue included, not the answer as a whole; None
    waits for ever. `key`: for servers that need one. `unix_socket`: where to connect instead of to the host of
    `base_url`. Every method raises ServerUnreachable, ServerRefused or AnswerBroken.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        read_timeout: float | None = READ_TIMEOUT,
        unix_socket: str | None = None,
    ) -> None:
        url = _server_url(base_url)
        self.server = str(url.copy_with(username=None, password=None)).rstrip("/")
        self._http = httpx2.Client(
            transport=httpx2.HTTPTransport(uds=unix_socket) if unix_socket is not None else None,
            base_url=url,
            headers={"authorization": f"Bearer {key}"} if key else None,
            timeout=httpx2.Timeout(CONNECT_TIMEOUT, read=read_timeout),
            # A kept connection may be closed by the server just as it is used again, and a turn must not be sent twice.
            limits=httpx2.Limits(max_keepalive_connections=0),
            # A proxy set for the network can't reach this machine's own loopback address.
            trust_env=not _is_loopback(url.host),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; answers still arriving end."""
        self._http.close()

    def stream_generate(
        self, prompt: str, *, on_disconnect: DisconnectPolicy | None = None, **options: Unpack[GenerationOptions]
    ) -> AnswerStream:
        """Ask once, without memory; the answer comes as it is written.

        `on_disconnect` says what becomes of the turn when the answer is closed early; None leaves it to the server,
        which cancels it unless it is set up otherwise.
        """
        response = self._stream("/v1/code/generate", {"prompt": prompt, **options}, on_disconnect)
        return AnswerStream.of(response, self.server)

    def generate(self, prompt: str, **options: Unpack[GenerationOptions]) -> str:
        """Ask once, without memory, and return the whole answer."""
        # Streamed as well: a long answer would otherwise be a silence longer than any read time-out.
        with self.stream_generate(prompt, **options) as answer:
            return "".join(answer)

    def stream_chat(
        self,
        prompt: str,
        conversation_id: str | None = None,
        *,
        on_disconnect: DisconnectPolicy | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AnswerStream:
        """Ask within a conversation, a new one if `conversation_id` is None; the answer tells its id.

        `on_disconnect` says what becomes of the turn when the answer is closed early; None leaves it to the server.
        """
        form = {"prompt": prompt, "conversation_id": conversation_id, **options}
        response = self._stream("/v1/code/chat_stream", form, on_disconnect)
        if conversation_id is None:
            return AnswerStream.of_new_conversation(response, self.server)
        return AnswerStream.of(response, self.server, conversation_id)

    def models(self) -> list[ServedModel]:
        """The models that the server offers."""
        response = self._get("/v1/models")
        if not response.is_success:
            raise refusal(response)
        try:
            return _ModelList.model_validate_json(response.content).data
        except ValidationError as error:
            raise unexpected(response) from error

    def ready(self) -> bool:
        """Whether the server takes turns now; False while it loads its model."""
        response = self._get("/ready")
        if not response.is_success and response.status_code != 503:
            raise refusal(response)
        return response.is_success

    def state(self) -> ServerState:
        """What the server does now."""
        response = self._get("/ready")
        if not response.is_success and response.status_code != 503:
            raise refusal(response)
        try:
            return ServerState.model_validate_json(response.content)
        except ValidationError as error:
            raise unexpected(response) from error

    def _get(self, path: str) -> httpx2.Response:
        with translated(self.server):
            return self._http.get(path)

    def _stream(self, path: str, form: dict[str, object], on_disconnect: DisconnectPolicy | None) -> httpx2.Response:
        """Send a form and return once the response's headers are there and promise text."""
        given = {name: value for name, value in form.items() if value is not None}
        headers = {"Accept": "text/plain"}
        if on_disconnect is not None:
            headers["X-Quern-On-Disconnect"] = on_disconnect.value
        request = self._http.build_request("POST", path, data=given, headers=headers)
        with translated(self.server):
            response = self._http.send(request, stream=True)
            if response.is_success and _media_type(response) in TEXT_TYPES:
                return response
            response.read()
        raise unexpected(response) if response.is_success else refusal(response)


def _server_url(text: str) -> httpx2.URL:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigError(f"{text!r} is no server address: write it like http://127.0.0.1:8001.")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _media_type(response: httpx2.Response) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()
