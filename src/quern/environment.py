"""Environment variables: whose they are, and who may see them."""

from __future__ import annotations

import os

ENV_PREFIX = "QUERN_"
SERVER_VARIABLE, KEY_VARIABLE = "QUERN_SERVER", "QUERN_API_KEY"
"""No settings: where the client commands look for their server, and the key that they show it."""


def hub_environment() -> dict[str, str]:
    """The variables that Hugging Face's own tools honour and so do we: HF_ENDPOINT and HF_TOKEN, where set."""
    return {name: os.environ[name] for name in ("HF_ENDPOINT", "HF_TOKEN") if name in os.environ}


def child_environment() -> dict[str, str]:
    """The environment for our own child processes: without the variables that may hold secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith((ENV_PREFIX, "HF_TOKEN"))}


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
