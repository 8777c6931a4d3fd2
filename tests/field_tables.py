"""The tables of request fields in docs/api.md, as values."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from quern.api.shared.fields import Refusal

API_PAGE = Path(__file__).parents[1] / "docs" / "api.md"
STATUSES = ("supported", "no-op", "refused")


def field_table(request: str) -> dict[str, str]:
    """Status by field, from the table under the heading `Fields of <request>`."""
    page = API_PAGE.read_text(encoding="utf-8")
    _, found, section = page.partition(f"### Fields of `{request}`\n")
    assert found, f"docs/api.md has no section 'Fields of `{request}`'"
    table = section.partition("\n#")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| ([\w-]+) \|", table, re.MULTILINE)
    assert rows, f"the table of {request} is empty"
    fields = dict(rows)
    assert len(fields) == len(rows), f"a field stands twice in the table of {request}"
    assert set(fields.values()) <= set(STATUSES), fields
    return fields


def status(model: type[BaseModel], name: str) -> str:
    """What a request model really does with a field."""
    by_alias = {field.alias or attribute: field for attribute, field in model.model_fields.items()}
    field = by_alias.get(name)
    if field is None:
        return "refused"
    if any(isinstance(one, BeforeValidator) and isinstance(one.func, Refusal) for one in field.metadata):
        return "refused"
    return "no-op" if _is_no_op(field) else "supported"


def known_fields(model: type[BaseModel]) -> set[str]:
    """The fields that a request model has."""
    return {field.alias or attribute for attribute, field in model.model_fields.items()}


def _is_no_op(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return extra is not None and not callable(extra) and extra.get("no_op") is True
