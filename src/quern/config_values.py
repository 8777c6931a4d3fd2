"""Values of settings that are written in a way of their own: lists, names of hosts, origins of web pages, paths."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_HOST = re.compile(r"\*|(\*\.)?[^\s/@*:]+|[0-9a-fA-F:.]+")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.\-]*://[^\s/]*")


def _listed(value: Any) -> Any:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _host_patterns(values: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(value.lower().strip("[]").rstrip(".") for value in values)
    for name in names:
        if not _HOST.fullmatch(name):
            msg = f"{name!r} is no host. Name hosts without a scheme, port or path, like gpu.example.com"
            raise ValueError(msg)
    return names


def _origin_patterns(values: tuple[str, ...]) -> tuple[str, ...]:
    origins = tuple(value.lower().removesuffix("/") if not value.endswith("://") else value.lower() for value in values)
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            msg = (
                f"{origin!r} is no origin. An origin is a scheme, a host and perhaps a port, like http://localhost:3000"
            )
            raise ValueError(msg)
    return origins


def _words(value: Any) -> Any:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


def _expand(value: Any) -> Any:
    return Path(value).expanduser().absolute() if isinstance(value, str | Path) else value


Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""Names, separated by commas where they are one text."""
Numbers = Annotated[
    tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...],
    BeforeValidator(_listed),
]
"""Numbers above 0, separated by commas where they are one text."""
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
"""Words of a command line, quoted as a shell has them where they are one text."""
HostPatterns = Annotated[Listed, AfterValidator(_host_patterns)]
"""Names of hosts in lower case; `*.example.com` is every name below, `*` any."""
OriginPatterns = Annotated[Listed, AfterValidator(_origin_patterns)]
"""Origins of web pages in lower case; `*` is any origin, and `vscode-webview://*` any of that scheme."""
AbsolutePath = Annotated[Path, BeforeValidator(_expand)]
"""A path; `~` is the user's home, and a relative one begins at the working directory."""


class Frozen(BaseModel):
    """Settings that belong together, which never change; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
