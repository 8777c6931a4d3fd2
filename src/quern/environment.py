"""Environment variables: whose they are, and who may see them."""

from __future__ import annotations

import os
from pathlib import Path

ENV_PREFIX = "QUERN_"
SERVER_VARIABLE, KEY_VARIABLE = "QUERN_SERVER", "QUERN_API_KEY"
"""No settings: where the client commands look for their server, and the key that they show it."""

SERVICE_MANAGER = frozenset(
    {
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "CREDENTIALS_DIRECTORY",
    }
)
"""What systemd tells a service. Sources: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3), systemd.exec(5)."""


def hub_environment() -> dict[str, str]:
    """The variables that Hugging Face's own tools honour and so do we: HF_ENDPOINT and HF_TOKEN, where set."""
    return {name: os.environ[name] for name in ("HF_ENDPOINT", "HF_TOKEN") if name in os.environ}


def child_environment() -> dict[str, str]:
    """The environment for our own child processes: without the variables that may hold secrets, and without those that
    a service manager means for the server alone.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith((ENV_PREFIX, "HF_TOKEN")) and name not in SERVICE_MANAGER
    }


def search_path() -> str:
    """Where programs are looked for: PATH."""
    return os.environ.get("PATH", "")


def service_manager_variables() -> dict[str, str]:
    """What systemd says to this process: the variables of SERVICE_MANAGER that are set and not empty."""
    return {name: value for name in SERVICE_MANAGER if (value := os.environ.get(name))}


def server_of_clients() -> str | None:
    """The address in QUERN_SERVER; None where it is not set or empty."""
    return os.environ.get(SERVER_VARIABLE) or None


def key_of_clients() -> str | None:
    """The key in QUERN_API_KEY; None where it is not set or empty."""
    return os.environ.get(KEY_VARIABLE) or None


def otel_environment() -> dict[str, str]:
    """OpenTelemetry's standard variables that ask for traces, where set; its libraries read the others themselves."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def settings_variables() -> dict[str, str]:
    """The variables that give settings, sorted by name."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(ENV_PREFIX) and name not in {SERVER_VARIABLE, KEY_VARIABLE}
    }


def config_home() -> Path:
    """`$XDG_CONFIG_HOME`, normally `~/.config`; where a user's systemd looks for units."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()


def words_to_complete() -> list[str] | None:
    """The words after the command's name that a shell asks to complete; None where none asks.

    Source of the variables: Typer's shell scripts.
    """
    if "_QUERN_COMPLETE" not in os.environ:
        return None
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()[1:]
