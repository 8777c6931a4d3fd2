"""A configuration file that explains itself: every setting as a commented line of TOML, made from the classes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from quern.config import RELOADABLE, Settings, default_data_dir
from quern.config_models import TableSettings
from quern.config_sources import SECRET_SETTINGS, TABLES, room_of, setting_fields, value_of

WIDTH = 100
ENGINE = "engine"
HEAD = """\
Quern's settings, each with its default: take the # away to change one. Environment variables and options of
`quern serve` win over this file. Settings marked with (reload) are taken over by a running server on SIGHUP
(`systemctl reload`), the others by the next start.
"""
OF_SECRETS = "A secret: systemd has a better place for it (`quern service install --credential {name}=FILE`)."


def template() -> str:
    """All settings as a TOML file whose every setting is commented out."""
    lines = [*_comment(HEAD), ""]
    room = ""
    for name, field in setting_fields().items():
        section, _, setting = name.rpartition(".")
        if section != room:
            room = section
            lines += [f"[{section}]", *_comment(room_of(section).__doc__ or ""), ""]
        lines += [*_comment(_explanation(name, field)), f"#{setting} ={_shown(_default(name, field))}", ""]
    return "\n".join([*lines, *_table_template()])


def _table_template() -> Iterable[str]:
    """How a table of one of several models looks."""
    yield from _comment(Settings.model_fields[TABLES].description or "")
    yield "#"
    yield "# [models.NAME]"
    for name, field in TableSettings.model_fields.items():
        if name != ENGINE:
            yield from _comment(field.description or "")
            yield f"# {name} ={_shown(field.get_default())}"
    yield from _comment(TableSettings.model_fields[ENGINE].description or "")
    yield f"# [models.NAME.{ENGINE}]"
    yield ""


def _explanation(name: str, field: FieldInfo) -> str:
    parts = [field.description or "", "(reload)" if field.json_schema_extra == RELOADABLE else ""]
    if name in SECRET_SETTINGS:
        parts.append(OF_SECRETS.format(name=name))
    return " ".join(filter(None, parts))


def _comment(text: str) -> Iterable[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False, break_long_words=False)]


def _default(name: str, field: FieldInfo) -> Any:
    return default_data_dir() if name == "data_dir" else field.get_default()


def _shown(value: Any) -> str:
    return "" if value is None else f" {toml(value)}"


def toml(value: Any) -> str:
    """A setting's value as TOML has it; a secret is hidden."""
    if isinstance(value, SecretStr):
        return '"(secret)"'
    if isinstance(value, Enum):
        return toml(value.value)
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(toml(item) for item in value)}]"  # pyright: ignore[reportUnknownVariableType]
    return _string(str(value))


def _string(text: str) -> str:
    """A basic string. JSON's escapes are TOML's too, but for the one that TOML wants escaped besides."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def in_force(settings: Settings, origins: Mapping[str, str]) -> str:
    """Every setting's value, and where it comes from, as TOML; what is not set is commented out, secrets are hidden."""
    lines: list[str] = []
    room = ""
    for name in setting_fields():
        section, _, setting = name.rpartition(".")
        if section != room:
            room = section
            lines += ["", f"[{section}]"]
        value = value_of(settings, name)
        line = f"#{setting} =" if value is None else f"{setting} = {toml(value)}"
        lines.append(f"{line:48}  # {origins[name]}")
    for name, table in settings.models.items():
        lines += ["", f"[{TABLES}.{_string(name)}]", *_given(table)]
        if table.engine.model_fields_set:
            lines += ["", f"[{TABLES}.{_string(name)}.{ENGINE}]", *_given(table.engine)]
    return "\n".join(lines)


def _given(table: BaseModel) -> list[str]:
    """What a table of a file says."""
    said = [(name, getattr(table, name)) for name in sorted(table.model_fields_set - {ENGINE})]
    return [f"{name} = {toml(value)}" for name, value in said if value is not None]
