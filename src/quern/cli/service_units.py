"""The units of a systemd service, as text. What each line is for is said beside it, in the unit too.

Sources: systemd.service(5), systemd.socket(5), systemd.exec(5), systemd.resource-control(5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS = 300
"""Until the first sign of progress; each one asks for more time."""

END_SECONDS = 60
"""Beyond the grace of running turns."""

FILES = 8192
TASKS = 512
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
UNIT_NAME = re.compile(r"[A-Za-z0-9_\-]{1,64}")


@dataclass(frozen=True, slots=True)
class Unit:
    """What the units are made for.

    `command`: the program and its first arguments. `address`: where the socket unit listens, `host:port`. `user`: who a
    system service runs as; None is a user that systemd makes for it (DynamicUser). `for_user`: a unit of somebody's own
    systemd. `data_dir`: None is systemd's state directory of that name. `credentials`: files by the settings they are.
    `code`: folders that Quern's programs are read from. `memory_max`: as systemd writes it.
    """

    name: str
    command: tuple[str, ...]
    address: str
    grace_seconds: float
    user: str | None = None
    for_user: bool = False
    data_dir: Path | None = None
    config: Path | None = None
    credentials: Mapping[str, Path] = field(default_factory=dict[str, Path])
    code: tuple[Path, ...] = ()
    memory_max: str | None = None


def service(unit: Unit) -> str:
    """NAME.service."""
    sections = [
        "# Written by `quern service`. Make your own changes with `systemctl edit`, so that this file can be renewed.",
        "[Unit]",
        "Description=Quern, a code-generation server",
        f"Requires={unit.name}.socket",
        f"After={unit.name}.socket" if unit.for_user else f"After={unit.name}.socket network-online.target",
        *([] if unit.for_user else ["Wants=network-online.target"]),
        "StartLimitIntervalSec=10min",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={_command(unit)}",
        "# Reads keys, limits and the log's level anew; running answers are not touched.",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "RestartSec=2",
        "# A setting that can't be used is no better at the next start.",
        "RestartPreventExitStatus=2",
        "# While a model is fetched or loaded, the server asks for more time as long as it gets on.",
        f"TimeoutStartSec={START_SECONDS}",
        f"TimeoutStopSec={round(unit.grace_seconds) + END_SECONDS}",
        "# Fed by the event loop while the engine computes; engine.stuck_seconds says when it counts as stuck.",
        "WatchdogSec=60",
        "KillMode=mixed",
        *_credentials(unit),
        "",
        *_user_and_places(unit),
        "",
        f"LimitNOFILE={FILES}",
        f"TasksMax={TASKS}",
        *([f"MemoryMax={unit.memory_max}"] if unit.memory_max else []),
        "OOMPolicy=continue",
        "",
        *(_sandbox_of_user_units() if unit.for_user else _sandbox(unit)),
        "",
        "[Install]",
        f"Also={unit.name}.socket",
        f"WantedBy={'default' if unit.for_user else 'multi-user'}.target",
    ]
    return "\n".join(sections) + "\n"


def socket(unit: Unit) -> str:
    """NAME.socket: it stays open while the service restarts, so that who connects meanwhile waits."""
    return f"""\
# Written by `quern service`. Stays open while the service restarts: who connects meanwhile waits for it.
[Unit]
Description=Quern's address

[Socket]
ListenStream={unit.address}
Backlog=4096
NoDelay=yes

[Install]
WantedBy=sockets.target
"""


def _command(unit: Unit) -> str:
    data_dir = str(unit.data_dir) if unit.data_dir is not None else f"%S/{unit.name}"
    words = [
        *map(_quoted, unit.command),
        "serve",
        "--data-dir",
        data_dir if unit.data_dir is None else _quoted(data_dir),
    ]
    if unit.config is not None:
        words += ["--config", _quoted(str(unit.config))]
    return " ".join(words)


def _quoted(word: str) -> str:
    """One word of a command line, without any of systemd's own meanings."""
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    return f'"{escaped}"' if re.search(r"[\s'\";]|^$", word) else escaped


def _path(path: Path) -> str:
    """A path in a list of paths."""
    escaped = str(path).replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
    return f'"{escaped}"' if re.search(r"[\s'\"]", str(path)) else escaped


def _credentials(unit: Unit) -> list[str]:
    return [f"LoadCredential={name}:{str(path).replace('%', '%%')}" for name, path in sorted(unit.credentials.items())]


def _user_and_places(unit: Unit) -> list[str]:
    if unit.for_user:
        return [] if unit.data_dir is not None else [f"StateDirectory={unit.name}"]
    who = ["DynamicUser=yes"] if unit.user is None else [f"User={unit.user}"]
    if unit.data_dir is None:
        where = [f"StateDirectory={unit.name}", "StateDirectoryMode=0700", f"Environment=HOME=%S/{unit.name}"]
    else:
        where = [f"ReadWritePaths={_path(unit.data_dir)}", f"Environment={_quoted(f'HOME={unit.data_dir}')}"]
    return [*who, *where, "UMask=0077"]


def _sandbox_of_user_units() -> list[str]:
    """What somebody's own systemd can do without the rights of root."""
    return [
        "NoNewPrivileges=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        "RestrictRealtime=yes",
        "LockPersonality=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallErrorNumber=EPERM",
    ]


def _sandbox(unit: Unit) -> list[str]:
    home = any(path.is_relative_to(closed) for path in unit.code for closed in HOMES)
    return [
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "# Quern's own programs are in somebody's home." if home else "# Nothing of anybody's home is needed.",
        f"ProtectHome={'read-only' if home else 'yes'}",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "PrivateUsers=yes",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "ProtectProc=invisible",
        "ProcSubset=all",
        "RemoveIPC=yes",
        "RestrictNamespaces=yes",
        "RestrictSUIDSGID=yes",
        "MemoryDenyWriteExecute=yes",
        *_sandbox_of_user_units()[1:],
        "SystemCallFilter=~@privileged @resources",
        "# It raises its own limit of open files, binds its threads and lowers nobody's priority.",
        "SystemCallFilter=setrlimit prlimit64 sched_setaffinity",
    ]
