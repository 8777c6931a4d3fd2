"""`quern service`: the units for systemd, shown or written where it looks for them."""

from __future__ import annotations

import ipaddress
import os
import pwd
import shlex
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import quern
from quern.cli import service_units
from quern.cli.service_units import HOMES, UNIT_NAME, Unit
from quern.config import Settings
from quern.config_sources import ENVIRONMENT, load_settings, origins, setting_fields
from quern.environment import config_home
from quern.errors import ConfigError

SYSTEM_UNITS = Path("/etc/systemd/system")
PRIVATE = (*HOMES, Path("/tmp"), Path("/var/tmp"))  # noqa: S108 (places that a service can't see)
OURS = "# Written by `quern service`"

service = typer.Typer(
    name="service", help="Run the server under systemd.\n\nExample: quern service show", no_args_is_help=True
)

Name = Annotated[str, typer.Option(help="What the units are called.")]
ForUser = Annotated[bool, typer.Option("--user", help="For this user's own systemd instead of the machine's.")]
RunAs = Annotated[
    str | None,
    typer.Option(help="The user that it runs as; if not given, one that systemd makes for it.", show_default=False),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="The TOML file that the server has its settings from.", show_default=False),
]
Data = Annotated[
    Path | None, typer.Option("--data-dir", help="The data directory, instead of systemd's own.", show_default=False)
]
Credential = Annotated[
    list[str] | None,
    typer.Option("--credential", metavar="SETTING=FILE", help="A secret setting, as a file that only root can read."),
]
MemoryMax = Annotated[str | None, typer.Option(help="The most memory, as systemd writes it: 12G.", show_default=False)]


@service.command()
def show(
    name: Name = "qwen_coder_api",
    user: ForUser = False,
    run_as: RunAs = None,
    config: ConfigFile = None,
    data_dir: Data = None,
    credential: Credential = None,
    memory_max: MemoryMax = None,
) -> None:
    """Print the units, and write nothing.

    Example: quern service show --config /etc/quern.toml
    """
    unit, warnings = _unit(name, user, run_as, config, data_dir, credential or [], memory_max)
    for text in warnings:
        typer.echo(text, err=True)
    folder = _folder(user)
    for path, content in _files(unit, folder):
        typer.echo(f"# {path}\n{content}")


@service.command()
def install(
    name: Name = "qwen_coder_api",
    user: ForUser = False,
    run_as: RunAs = None,
    config: ConfigFile = None,
    data_dir: Data = None,
    credential: Credential = None,
    memory_max: MemoryMax = None,
    now: Annotated[bool, typer.Option("--now", help="Have systemd read the units and start them.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace units that Quern did not write.")] = False,
) -> None:
    """Write the units where systemd looks for them, and print the commands that start them.

    Examples:

    - `sudo quern service install --config /etc/quern.toml`

    - `quern service install --user --now`
    """
    unit, warnings = _unit(name, user, run_as, config, data_dir, credential or [], memory_max)
    if warnings:
        raise ConfigError(" ".join([*warnings, "Nothing was written."]))
    files = _files(unit, _folder(user))
    for path, _ in files:
        if path.exists() and not force and not path.read_text(encoding="utf-8").startswith(OURS):
            raise ConfigError(f"There is a unit {path} that Quern did not write. Use another --name, or --force.")
    try:
        for path, content in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            typer.echo(f"Wrote {path}")
    except OSError as error:
        raise ConfigError(
            f"{error.filename} can't be written: {error.strerror}. Try it as root, or install the units for yourself "
            f"with --user."
        ) from error
    systemctl = ["systemctl", *(["--user"] if user else [])]
    commands = [[*systemctl, "daemon-reload"], [*systemctl, "enable", "--now", f"{name}.socket", f"{name}.service"]]
    if now:
        _run(commands)
    else:
        typer.echo("To start it, now and with the machine:")
        for command in commands:
            typer.echo(f"  {shlex.join(command)}")
    if user:
        typer.echo(f"To have it run while you are not logged in: loginctl enable-linger {_user_name()}")


def _run(commands: Sequence[Sequence[str]]) -> None:
    for command in commands:
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError as error:
            raise ConfigError("There is no systemctl here, so systemd does not run this machine.") from error
        except subprocess.CalledProcessError as error:
            raise ConfigError(f"`{shlex.join(command)}` failed; what it said is above.") from error


def _folder(for_user: bool) -> Path:
    return config_home() / "systemd" / "user" if for_user else SYSTEM_UNITS


def _files(unit: Unit, folder: Path) -> list[tuple[Path, str]]:
    return [
        (folder / f"{unit.name}.socket", service_units.socket(unit)),
        (folder / f"{unit.name}.service", service_units.service(unit)),
    ]


def _unit(
    name: str,
    for_user: bool,
    run_as: str | None,
    config: Path | None,
    data_dir: Path | None,
    credentials: Sequence[str],
    memory_max: str | None,
) -> tuple[Unit, list[str]]:
    """What the units are made for, and what keeps them from working. Raises ConfigError."""
    if not UNIT_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} can't be a unit's name. Use letters, digits, _ and -.")
    if data_dir is not None and run_as is None and not for_user:
        raise ConfigError(
            "A data directory of your own belongs to a user of the machine: name it with --run-as. Without --data-dir, "
            "systemd makes both the user and the directory."
        )
    if run_as is not None and for_user:
        raise ConfigError("Units of --user run as you, so leave --run-as away.")
    if run_as is not None and not _exists(run_as):
        raise ConfigError(f"There is no user {run_as} on this machine.")
    config = config.expanduser().absolute() if config is not None else None
    data_dir = data_dir.expanduser().absolute() if data_dir is not None else None
    overrides = {"data_dir": data_dir} if data_dir is not None else {}
    settings = load_settings(config, overrides)
    unit = Unit(
        name,
        _command(),
        _address(settings),
        settings.server.shutdown_grace_seconds,
        user=run_as,
        for_user=for_user,
        data_dir=data_dir,
        config=config,
        credentials=_credentials(credentials),
        code=tuple(dict.fromkeys(Path(path).resolve() for path in (sys.prefix, sys.base_prefix, quern.__path__[0]))),
        memory_max=memory_max,
    )
    shell = [setting for setting, origin in origins(config, overrides).items() if origin.startswith(ENVIRONMENT)]
    warnings = [_of_this_shell(shell)] if shell else []
    return unit, warnings if for_user else [*warnings, *_out_of_reach(unit, settings)]


def _of_this_shell(settings: Sequence[str]) -> str:
    return (
        f"This shell's environment gives {', '.join(settings)}, and the service will not have that environment. "
        f"Put them into the file of --config, and unset the variables."
    )


def _out_of_reach(unit: Unit, settings: Settings) -> list[str]:
    """What a system service could not see, as sentences."""
    model = Path(settings.model.name).expanduser()
    wanted = [("the configuration file", unit.config), ("the model", model if model.exists() else None)]
    sentences = [
        f"A service can't see {what} {path}: it has no access to homes and temporary files. Move it, for instance to "
        f"/etc or /srv."
        for what, path in wanted
        if path is not None and any(path.is_relative_to(closed) for closed in PRIVATE)
    ]
    user = pwd.getpwnam(unit.user).pw_uid if unit.user is not None else None
    for path in [*unit.code, *(path for _, path in wanted if path is not None)]:
        closed = next((part for part in (*reversed(path.parents), path) if not _open_to(part, user)), None)
        if closed is not None:
            sentences.append(
                f"The service's user may not read {path}, since {closed} is closed to others. Put it where everybody "
                f"may read it, like /opt or /etc, or name its owner with --run-as."
            )
    return list(dict.fromkeys(sentences))


def _open_to(path: Path, user: int | None) -> bool:
    found = path.stat()
    needed = stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else stat.S_IROTH
    return bool(found.st_mode & needed) or user in {0, found.st_uid}


def _command() -> tuple[str, ...]:
    return (str(Path(sys.executable).with_name("quern")),)


def _address(settings: Settings) -> str:
    host, port = settings.server.host, settings.server.port
    if port == 0:
        raise ConfigError("A service needs a port that stays: give server.port a number other than 0.")
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise ConfigError(f"systemd opens addresses, not names: give server.host the address of {host!r}.") from error
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _credentials(given: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in given:
        setting, separator, file = text.partition("=")
        if not separator or not file or "." not in setting or setting not in setting_fields():
            raise ConfigError(f"--credential {text}: write it like engine.api_key=/etc/quern/engine.key.")
        found[setting] = Path(file).expanduser().absolute()
    return found


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _user_name() -> str:
    return pwd.getpwuid(os.getuid()).pw_name
