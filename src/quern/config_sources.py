"""Where the settings come from.

Sources, first wins: command line, environment (`QUERN_SERVER__PORT=9000`), systemd's credentials (a file
`engine.api_key` in `$CREDENTIALS_DIRECTORY`), the TOML file given by `--config` (`[server]` `port = 9000`), the
defaults of `config.py`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from quern.config import RELOADABLE, Settings
from quern.environment import ENV_PREFIX, service_manager_variables, settings_variables
from quern.errors import ConfigError

ENV_DELIMITER = "__"
ENVIRONMENT = "environment"
TABLES = "models"
"""The setting that is not one value but a table for each model."""
SECRET_SETTINGS = frozenset({"engine.api_key", "engine.remote.api_key", "store.url"})


@dataclass(frozen=True, slots=True)
class Reload:
    """What came of reading a running server's settings anew: the names of those that changed, and of those that would
    with a restart. `before`, `after`: all settings. `keys_kept`: why the keys are still those that were read before.
    """

    before: Settings
    after: Settings
    changed: list[str]
    need_restart: list[str]
    keys_kept: str | None = None


def load_settings(config_file: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Read file and environment, put `overrides` (nested, from the command line) on top.

    Raises ConfigError naming the setting and where its value came from.
    """
    values: dict[str, Any] = {}
    for _, source in _sources(config_file, overrides):
        _merge(values, source)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def origins(config_file: Path | None = None, overrides: dict[str, Any] | None = None) -> dict[str, str]:
    """Where each setting's value comes from, for people; for all that `load_settings` with the same takes."""
    found = dict.fromkeys(setting_fields(), "default")
    for where, source in _sources(config_file, overrides):
        for name in found:
            room, _, setting = name.rpartition(".")
            if setting in _inside(source, room):
                variable = ENV_PREFIX + name.upper().replace(".", ENV_DELIMITER)
                found[name] = f"{where} {variable}" if where == ENVIRONMENT else where
    return found


def _inside(source: dict[str, Any], room: str) -> Mapping[str, Any]:
    for part in filter(None, room.split(".")):
        source = source.get(part, {})
    return source


def _sources(config_file: Path | None, overrides: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    """What each source is called and what it says, the last one wins."""
    return [
        (f"file {config_file}", _from_file(config_file)),
        ("credential", _from_credentials()),
        (ENVIRONMENT, _from_environment()),
        ("command line", overrides or {}),
    ]


def setting_fields() -> dict[str, FieldInfo]:
    """Every setting by its name, like `server.port`, in the order of the classes; without the tables of models."""
    return {name: field for name, field in _fields_of(Settings).items() if name != TABLES}


def room_of(name: str) -> type[BaseModel]:
    """The class that a setting's room is, by the room's name: `engine.vllm`."""
    room: type[BaseModel] = Settings
    for part in name.split("."):
        annotation = room.model_fields[part].annotation
        if not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
            raise KeyError(name)
        room = annotation
    return room


def _fields_of(room: type[BaseModel]) -> dict[str, FieldInfo]:
    """Its own settings first, then those of the rooms inside it."""
    fields: dict[str, FieldInfo] = {}
    inner: dict[str, FieldInfo] = {}
    for name, field in room.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner |= {f"{name}.{rest}": found for rest, found in _fields_of(field.annotation).items()}
        else:
            fields[name] = field
    return {**fields, **inner}


def value_of(settings: Settings, name: str) -> Any:
    """A setting's value by its name."""
    return attrgetter(name)(settings)


def changed(old: Settings, new: Settings) -> list[str]:
    """The names of the settings whose values differ."""
    tables = [TABLES] if old.models != new.models else []
    return [*(name for name in setting_fields() if value_of(old, name) != value_of(new, name)), *tables]


def reloaded(old: Settings, new: Settings) -> Settings:
    """`old` with those of `new` that a running server can take over (`config.RELOADABLE`)."""
    rooms: dict[str, dict[str, Any]] = {}
    for name in changed(old, new):
        if name != TABLES and setting_fields()[name].json_schema_extra == RELOADABLE:
            room, _, setting = name.rpartition(".")
            rooms.setdefault(room, {})[setting] = value_of(new, name)
    taken = {room: getattr(old, room).model_copy(update=values) for room, values in rooms.items()}
    return old.model_copy(update=taken)


def port_is_given() -> bool:
    """Whether the environment has the setting server.port."""
    return "port" in _from_environment().get("server", {})


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The configuration file {path} can't be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"The configuration file {path} is not valid TOML: {why}.") from error


def _from_credentials() -> dict[str, Any]:
    """Files that are named like settings; what else is there is for somebody else."""
    folder = service_manager_variables().get("CREDENTIALS_DIRECTORY")
    values: dict[str, Any] = {}
    if folder is None:
        return values
    try:
        for path in sorted(Path(folder).iterdir()):
            room, separator, setting = path.name.partition(".")
            if separator and room in Settings.model_fields:
                values.setdefault(room, {})[setting] = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"A credential in {folder} can't be read: {why}.") from error
    return values


def _from_environment() -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in settings_variables().items():
        *rooms, setting = name.removeprefix(ENV_PREFIX).lower().split(ENV_DELIMITER)
        target = values
        for room in rooms:
            inner: Any = target.setdefault(room, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"The variable {name} is a setting of {room}, and another variable gives {room} itself a value. "
                    f"There is no such setting: unset the other one; docs/operations.md lists them all."
                )
            target = cast("dict[str, Any]", inner)
        target[setting] = value
    return values


def _merge(into: dict[str, Any], source: dict[str, Any]) -> None:
    for key, value in source.items():
        present = into.get(key)
        if isinstance(value, dict) and isinstance(present, dict):
            _merge(present, value)  # pyright: ignore[reportUnknownArgumentType]
        else:
            into[key] = value


def _is_secret(loc: tuple[int | str, ...]) -> bool:
    """`models.NAME.engine.api_key` is as secret as `engine.api_key`."""
    inside = loc[2:] if loc[:1] == (TABLES,) else loc
    return ".".join(str(part) for part in inside) in SECRET_SETTINGS


def _explain(error: ValidationError) -> str:
    sentences: list[str] = []
    for item in error.errors(include_url=False, include_context=False):
        name = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ").rstrip(".")
        if item["type"] == "extra_forbidden":
            message = f"There is no setting {name}; docs/operations.md lists them all"
        elif _is_secret(item["loc"]):
            message = f"The setting {name} can't be used: {message}"
        elif name:
            message = f"The setting {name} can't be {item['input']!r}: {message}"
        sentences.append(message + ".")
    return " ".join(sentences)
