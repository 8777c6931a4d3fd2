"""Reading a prompt at a terminal: several lines, and a history that only its owner can read."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import typer
from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent


class LineReader:
    """Asks for one prompt after the other."""

    def __init__(self) -> None:
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_key_bindings(),
            history=_history(Path(platformdirs.user_state_dir("quern", appauthor=False)) / "chat_history"),
        )

    def read(self) -> str:
        """The next prompt. Raises KeyboardInterrupt on Ctrl-C and EOFError on Ctrl-D."""
        return self._session.prompt()


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def send_or_continue(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def continue_on_a_new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings


def _history(path: Path) -> History:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
    except OSError as error:
        typer.echo(f"Prompts of this session are not remembered: {path} can't be used ({error.strerror}).", err=True)
        return InMemoryHistory()
    return FileHistory(str(path))
