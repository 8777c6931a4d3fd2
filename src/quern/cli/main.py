"""The `quern` command: its subcommands, and the one table from errors to exit codes.

| outcome | exit code |
|---|---|
| done, or the reader of our output has gone (`| head -1`) | 0 |
| a failure | 1 |
| a command line or a setting that can't be used | 2 |
| `quern status` where no server runs | 3 |
| Ctrl-C | 130 |
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, cast

import typer

from quern import __version__
from quern.environment import words_to_complete
from quern.errors import ConfigError, QuernError

# Each is imported when it is used: the server's libraries take two seconds, and a client should not wait for them.
COMMANDS = {
    "serve": "quern.cli.serve",
    "generate": "quern.cli.generate",
    "chat": "quern.cli.chat",
    "models": "quern.cli.models",
    "pull": "quern.cli.models",
    "engines": "quern.cli.engines",
    "doctor": "quern.cli.doctor",
    "keys": "quern.cli.keys",
    "usage": "quern.cli.usage",
    "top": "quern.cli.top",
    "status": "quern.cli.status",
    "ps": "quern.cli.status",
    "stop": "quern.cli.stop",
    "reload": "quern.cli.reload",
    "backup": "quern.cli.backup",
    "restore": "quern.cli.backup",
    "vacuum": "quern.cli.backup",
    "config": "quern.cli.config",
    "service": "quern.cli.service",
}


def run() -> None:
    """The console entry point."""
    # A terminal in an older encoding shows "?" for what it lacks instead of ending the answer.
    cast("io.TextIOWrapper", sys.stdout).reconfigure(errors="replace")
    try:
        words = words_to_complete()
        if words is None:
            build_app(_needed(sys.argv[1:]))()
        else:
            build_app([words[0]] if words and words[0] in COMMANDS else [], names_only=COMMANDS)()
    except KeyboardInterrupt:
        sys.exit(130)


def build_app(names: Iterable[str] = COMMANDS, names_only: Iterable[str] = ()) -> typer.Typer:
    """The command line with the subcommands `names`. Of `names_only` there are only the names, for a shell to choose
    from.
    """
    app = typer.Typer(
        name="quern",
        help="A self-hosted code-generation server for Qwen-Coder models.",
        epilog="Start with `quern doctor`, then `quern serve`, then `quern chat` in a second terminal.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    for name in names:
        command = getattr(import_module(COMMANDS[name]), name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    for name in (name for name in names_only if name not in names):
        app.command(name)(lambda: None)
    return app


def _needed(arguments: list[str]) -> Iterable[str]:
    first = next((word for word in arguments if word != "--debug"), "")
    if first in COMMANDS:
        return [first]
    return [] if first == "--version" else COMMANDS


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quern {__version__}")
        raise typer.Exit


def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Prepare what holds for every subcommand."""
    context.with_resource(_explained(debug=debug))


@contextmanager
def _explained(*, debug: bool) -> Generator[None]:
    """Turn every failure into a sentence or, with `debug`, a traceback, and into an exit code."""
    try:
        yield
        sys.stdout.flush()
    except (typer.Exit, typer.Abort, typer.TyperException):
        raise
    except BrokenPipeError:
        # Python flushes standard output once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        else:
            typer.echo(_sentence(error), err=True)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, QuernError):
        return str(error)
    return (
        f"A bug in Quern: {type(error).__name__}: {error}. Please report it; "
        f"`quern --debug` with the same command shows where it happened."
    )
