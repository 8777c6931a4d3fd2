"""Environment variables: whose they are, and who may see them."""

from __future__ import annotations

import os

ENV_PREFIX = "QUERN_"
SERVER_VARIABLE = "QUERN_SERVER"
"""No setting: where the client commands look for their server."""


def hub_environment() -> dict[str, str]:
    """The variables that Hugging Face's own tools honour and so do we: HF_ENDPOINT and HF_TOKEN, where set."""
    return {name: os.environ[name] for name in ("HF_ENDPOINT", "HF_TOKEN") if name in os.environ}


def child_environment() -> dict[str, str]:
    """The environment for our own child processes: without the variables that may hold secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith((ENV_PREFIX, "HF_TOKEN"))}


def server_of_clients() -> str | None:
    """The address in QUERN_SERVER; None where it is not set or empty."""
    return os.environ.get(SERVER_VARIABLE) or None


def settings_variables() -> dict[str, str]:
    """The variables that give settings, sorted by name."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(ENV_PREFIX) and name != SERVER_VARIABLE
    }


def words_to_complete() -> list[str] | None:
    """The words after the command's name that a shell asks to complete; None where none asks.

    Source of the variables: Typer's shell scripts.
    """
    if "_QUERN_COMPLETE" not in os.environ:
        return None
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()[1:]
