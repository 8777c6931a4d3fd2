"""The one error tree. Every message says what happened, what it means and what to do.

    QuernError
    ├── ConfigError                 a setting or command-line value that can't be used
    ├── ModelError
    │   ├── ModelNotFound           no such catalog name or path
    │   ├── ModelDownloadError      no source could deliver the file
    │   ├── ModelCorrupt            a file's bytes are not what they should be
    │   └── ModelLoadError          an engine could not load the model
    ├── EngineError
    │   ├── EngineUnavailable       loading or restarting: try again in `retry_after` seconds
    │   ├── EngineFailed            a running generation was lost
    │   │   ├── GrammarExhausted    by its request's grammar
    │   │   └── ServerLost          by the server that ran it
    │   └── EnvironmentNotMade      the Python environment of an engine can't be made or removed
    ├── AccessRefused               who asks, or what they may do
    │   ├── Unauthorized            no key, or none that is valid
    │   ├── NotAllowed              a key that may not do this
    │   └── KeyNotFound
    ├── TurnRefused                 a request that never became a turn
    │   ├── InvalidRequest
    │   ├── ConversationNotFound
    │   ├── ConversationBusy
    │   ├── ResponseNotFound
    │   ├── ItemNotFound
    │   ├── TurnNotFound
    │   ├── TurnNotContinuable
    │   ├── KeyReused               an Idempotency-Key of another request
    │   ├── ModelNotServed
    │   ├── ContextExceeded
    │   │   └── InputTooLong        an input that is embedded
    │   ├── TooLarge                a body that is more than can be read
    │   ├── LimitExceeded           a key has used what it may: try again in `retry_after` seconds
    │   ├── StorageExceeded         an owner has stored as much as it may
    │   └── QueueFull               the same, of the server
    ├── TurnNotCompleted            an admitted turn ended as failed, cancelled or interrupted
    ├── StoreError                  the database can't be used
    │   └── DiskFull                there is no room for what was to be saved
    └── ClientError                 what `quern.client` raises
        ├── ServerUnreachable
        ├── ServerRefused           an HTTP error status, with the server's own sentence
        └── AnswerBroken            the connection ended before the answer did

Inside a room plain builtins are fine; what crosses a room's edge is one of these. `api/shared/errors.py` holds the one
table from here to HTTP; `cli/main.py` the one to exit codes.
"""

from __future__ import annotations

from quern.types import TurnState


class QuernError(Exception):
    """Base of everything Quern raises on purpose; `str()` is a sentence for a person."""


class ConfigError(QuernError):
    """A setting or a command-line value can't be used."""


class ModelError(QuernError):
    """Something about model files."""


class ModelNotFound(ModelError):
    """Neither a catalog name nor a model on disk."""


class ModelDownloadError(ModelError):
    """No source could deliver the file."""


class ModelCorrupt(ModelError):
    """A file's bytes are not what they should be."""


class ModelLoadError(ModelError):
    """An engine could not load the model."""


class EngineError(QuernError):
    """Something about a running engine."""


class EngineUnavailable(EngineError):
    """The engine is loading or restarting; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineFailed(EngineError):
    """A running generation was lost."""


class GrammarExhausted(EngineFailed):
    """What the request asks for cost more work than one answer may: the request is to blame, not the engine."""


class ServerLost(EngineFailed):
    """The server that ran a generation is to blame, and another one may run it."""


class EnvironmentNotMade(EngineError):
    """The Python environment of an engine can't be made or removed."""


class AccessRefused(QuernError):
    """Who asks, or what they may do, is the matter."""


class Unauthorized(AccessRefused):
    """No key came with the request, or none that is valid."""


class NotAllowed(AccessRefused):
    """The key is valid and may not do this."""


class KeyNotFound(AccessRefused):
    """There is no such key."""


class TurnRefused(QuernError):
    """A request that never became a turn. Nothing was stored, nothing was lost."""


class InvalidRequest(TurnRefused):
    """A value that can't be used; `field` names it."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ConversationNotFound(TurnRefused):
    """Unknown, malformed, or somebody else's: the caller can't tell which, on purpose."""


class ConversationBusy(TurnRefused):
    """A turn of this conversation is still queued or running."""


class ResponseNotFound(TurnRefused):
    """Unknown, malformed, somebody else's, or deleted."""


class ItemNotFound(TurnRefused):
    """A conversation has no such item."""


class KeyReused(TurnRefused):
    """The Idempotency-Key is that of another request."""


class TurnNotContinuable(TurnRefused):
    """The turn runs, is complete, or can't go on where it stopped."""


class TurnNotFound(TurnRefused):
    """Unknown, deleted, or somebody else's."""


class ModelNotServed(TurnRefused):
    """The request names a model that is not the one that runs here."""


class ContextExceeded(TurnRefused):
    """Prompt, history and room for an answer don't fit the context. All counts are tokens.

    `at_least`: the prompt is so long that it was not counted to its end.
    """

    def __init__(self, prompt_tokens: int, answer_tokens: int, context_length: int, *, at_least: bool = False) -> None:
        least = "at least " if at_least else ""
        answer = f" and {answer_tokens} reserved for the answer (max_tokens)" if answer_tokens else ""
        super().__init__(
            f"This request needs {least}{prompt_tokens + answer_tokens} tokens of context: {least}{prompt_tokens} for "
            f"the prompt with its history{answer}. The limit is {context_length}. Nothing was truncated: shorten the "
            f"prompt, lower max_tokens, or start a new conversation."
        )
        self.prompt_tokens = prompt_tokens
        self.answer_tokens = answer_tokens
        self.context_length = context_length


class InputTooLong(ContextExceeded):
    """An input to be embedded has more tokens than the model reads; `field` names it."""

    def __init__(self, field: str, tokens: int, context_length: int) -> None:
        super().__init__(tokens, 0, context_length)
        self.field = field
        message = (
            f"The input {field} has {tokens} tokens, and {context_length} is the most that is read of one "
            f"(engine.context_length). Nothing was truncated and nothing embedded: split it and send the parts."
        )
        self.args = (message,)


class TooLarge(TurnRefused):
    """A request's body is more than anything that could be served."""


class QueueFull(TurnRefused):
    """Every place is taken; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LimitExceeded(TurnRefused):
    """A key has used what it may; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageExceeded(TurnRefused):
    """An owner has stored as much as it may: it has to delete something first."""


class TurnNotCompleted(QuernError):
    """An admitted turn ended without completing; the text so far is kept on the turn."""

    def __init__(self, state: TurnState, message: str) -> None:
        super().__init__(message)
        self.state = state


class StoreError(QuernError):
    """The database can't be used."""


class DiskFull(StoreError):
    """The disk that holds the database has no room for what was to be saved, of which nothing was."""


class ClientError(QuernError):
    """What `quern.client` raises."""


class ServerUnreachable(ClientError):
    """Nothing answered at the server's address."""


class ServerRefused(ClientError):
    """The server answered with an error status."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class AnswerBroken(ClientError):
    """The connection ended before the answer did."""
