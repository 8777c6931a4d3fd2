"""`quern chat`: turns of one conversation, typed at a terminal or piped in line by line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from quern.cli.repl import LineReader
from quern.cli.server_choice import DataDir, ServerUrl, server_address
from quern.cli.terminal import AnswerWriter, noticing_ctrl_c
from quern.client import QuernClient
from quern.environment import key_of_clients
from quern.errors import ConfigError, QuernError
from quern.types import DisconnectPolicy

COMMANDS = {
    "/new": "leave this conversation and start another with the next message",
    "/id": "show the conversation's id",
    "/help": "show this list",
    "/exit": "leave; the conversation stays on the server",
}
KEYS = (
    "Enter sends. Alt-Enter, or a backslash at the end of a line, starts a new line. "
    "Ctrl-C cancels an answer, Ctrl-D leaves, /help lists the commands."
)

ConversationId = Annotated[
    str | None, typer.Option("--conversation", metavar="ID", help="Continue this conversation.", show_default=False)
]


def chat(server: ServerUrl = None, data_dir: DataDir = None, conversation: ConversationId = None) -> None:
    """Talk with the model; the server remembers the conversation.

    At the end the conversation's id is shown with the command that continues it. Without a terminal, every line of
    standard input that is not blank is one turn, the answers alone go to standard output, and the first failure ends
    it. A line that is one of the commands (`/new`, `/id`, `/help`, `/exit`) is never sent to the model.

    Examples:

    - `quern chat`

    - `quern chat --conversation 6f1c0c52-5d0e-4c43-9d5e-0d4f4b3a2f11`

    - `printf 'Bubble sort in Python\\nNow in Java\\n' | quern chat > answers.md`
    """
    with QuernClient(server_address(server, data_dir), key=key_of_clients()) as client:
        session = ChatSession(client, conversation, _options(server, data_dir))
        try:
            if sys.stdin.isatty() and sys.stdout.isatty():
                _interactive(session)
            else:
                _piped(session)
        finally:
            session.show_continuation()


class ChatSession:
    """The conversation that the next line belongs to. `options`: those of the command line that find its server."""

    def __init__(self, client: QuernClient, conversation_id: str | None, options: str) -> None:
        self._client = client
        self._options = options
        self._conversation_id = conversation_id
        self._accepted = False

    def greeting(self) -> str:
        """Who is at the other end, and which keys do what. Raises ServerUnreachable where nobody is."""
        models = ", ".join(model.id for model in self._client.models())
        return f"{models} at {self._client.server}. {KEYS}"

    def take(self, line: str) -> bool:
        """Obey a command or answer a prompt; False means that the user wants to leave."""
        word = line.strip()
        if word == "/exit":
            return False
        if word == "/help":
            typer.echo("\n".join(f"{name:6} {meaning}" for name, meaning in COMMANDS.items()), err=True)
        elif word == "/id":
            typer.echo(self._conversation_id or "No conversation yet: the first message starts one.", err=True)
        elif word == "/new":
            self.show_continuation()
            self._conversation_id, self._accepted = None, False
        elif word.startswith("/") and word[1:].isalpha():
            raise ConfigError(f"There is no command {word}. The commands are {', '.join(COMMANDS)}.")
        elif word:
            self._turn(line)
        return True

    def show_continuation(self) -> None:
        """Show the command that continues the conversation, if the server took a turn of it."""
        if self._accepted:
            typer.echo(f"Continue with: quern chat --conversation {self._conversation_id}{self._options}", err=True)

    def _turn(self, prompt: str) -> None:
        with (
            noticing_ctrl_c(),
            self._client.stream_chat(prompt, self._conversation_id, on_disconnect=DisconnectPolicy.CANCEL) as answer,
            AnswerWriter(sys.stdout) as writer,
        ):
            self._conversation_id, self._accepted = answer.conversation_id, True
            for piece in answer:
                writer.write(piece)


def _options(server: str | None, data_dir: Path | None) -> str:
    """Those that were given, as one types them."""
    given = [("--server", server), ("--data-dir", data_dir)]
    return "".join(f" {name} {shlex.quote(str(value))}" for name, value in given if value is not None)


def _interactive(session: ChatSession) -> None:
    typer.echo(session.greeting(), err=True)
    reader = LineReader()
    while True:
        try:
            line = reader.read()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        try:
            if not session.take(line):
                return
        except KeyboardInterrupt:
            typer.echo("Cancelled, on the server too. Go on with the next message.", err=True)
        except QuernError as error:
            typer.echo(str(error), err=True)


def _piped(session: ChatSession) -> None:
    try:
        for line in _lines():
            if not session.take(line):
                return
    except KeyboardInterrupt:
        typer.echo("Cancelled, on the server too; the last answer is not complete.", err=True)
        raise typer.Exit(130) from None


def _lines() -> Iterator[str]:
    try:
        for line in sys.stdin.buffer:
            yield line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"Standard input is not UTF-8 text ({error.reason}).") from error
