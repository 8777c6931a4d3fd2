"""The command line as a whole: help, version, and one sentence and one exit code for every failure."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.unit.cli.command import Command
from typer.testing import CliRunner

from quern import __version__
from quern.cli.main import COMMANDS, build_app
from quern.errors import ConfigError, EngineFailed, QuernError


def test_the_version_is_shown(command: Command) -> None:
    done = command.run("--version")
    assert (done.returncode, done.stdout.decode()) == (0, f"quern {__version__}\n")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(command: Command, flag: str) -> None:
    done = command.run(flag)
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"│ {name} " in done.stdout.decode()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_help_has_an_example_that_starts_with_quern(command: Command, name: str) -> None:
    done = command.run(name, "-h")
    assert done.returncode == 0
    assert f"quern {name}" in done.stdout.decode().partition("Example")[2]


@pytest.mark.parametrize(
    "arguments", [["grind"], ["generate"], ["generate", "Hi", "--top-k", "many"], ["--debug", "doctor", "--nonsense"]]
)
def test_a_command_line_that_cant_be_used_exits_with_2(command: Command, arguments: list[str]) -> None:
    done = command.run(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"Usage: quern" in done.stderr


def test_a_mistyped_command_is_told_what_was_meant(command: Command) -> None:
    assert b"'generate'" in command.run("genrate", "Hi").stderr


def outcome(error: BaseException, *flags: str) -> tuple[int, str]:
    """Exit code and standard error of a command that raises `error`."""
    app = build_app([])

    def fails() -> None:
        raise error

    app.command("fails")(fails)
    result = CliRunner().invoke(app, [*flags, "fails"])
    return result.exit_code, result.stderr


@pytest.mark.parametrize(("error", "code"), [(EngineFailed("It went away."), 1), (ConfigError("No such port."), 2)])
def test_an_expected_failure_is_its_own_sentence_and_an_exit_code(error: QuernError, code: int) -> None:
    assert outcome(error) == (code, f"{error}\n")


def test_an_unexpected_failure_is_called_a_bug_in_one_line_without_traceback() -> None:
    code, text = outcome(KeyError("layers"))
    assert code == 1
    assert text.startswith("A bug in Quern: KeyError: 'layers'. ")
    assert "quern --debug" in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(("error", "code"), [(KeyError("layers"), 1), (ConfigError("No such port."), 2)])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(error: Exception, code: int) -> None:
    found, text = outcome(error, "--debug")
    assert found == code
    assert text.startswith("Traceback (most recent call last)")
    assert str(error) in text


def test_ctrl_c_anywhere_exits_with_130() -> None:
    assert outcome(KeyboardInterrupt()) == (130, "")


def test_a_client_command_does_not_wait_for_the_servers_libraries() -> None:
    program = """
import sys
from quern.cli.main import build_app
build_app(["generate"])
print(*({"fastapi", "sqlalchemy", "tokenizers", "uvicorn", "prompt_toolkit"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"\n"


@pytest.mark.parametrize(
    ("shell", "words", "offered"),
    [
        ("bash", {"COMP_WORDS": "quern se", "COMP_CWORD": "1"}, "serve"),
        ("bash", {"COMP_WORDS": "quern serve --all", "COMP_CWORD": "2"}, "--allow-anonymous"),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "quern do"}, "doctor"),
        ("fish", {"_TYPER_COMPLETE_ARGS": "quern pull --", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}, "--help"),
    ],
)
def test_shells_complete_commands_and_options(
    command: Command, shell: str, words: dict[str, str], offered: str
) -> None:
    asking = {**command.environment, "_QUERN_COMPLETE": f"complete_{shell}", **words}
    done = Command(asking).run()
    assert offered in done.stdout.decode()
