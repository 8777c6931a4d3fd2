"""What the fields of every dialect's requests have in common.

Agents send a field more every week, so what a request has beside the fields that are read is left out and named, in the
header `x-quern-ignored` and in the log; null and an empty list are as good as nothing where a field may be left out.
With `server.unknown_fields = "refuse"` the first unknown field is refused by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Self, Union, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from quern.api.shared.content import Content

MOST_STOPS = 16
MOST_STOP_CHARACTERS = 256
MOST_MESSAGES = 10_000
MOST_SCHEMA_LEVELS = 100


class RequestObject(BaseModel):
    """An object of a request. Members that it has no field for are left out, and named by `ignored_fields`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    _unknown: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict):
            return handler(value)
        members = cast("dict[str, Any]", value)
        known, optional = _names(cls)
        numbers = _numbers(cls)
        made = handler(
            {
                name: as_number(it) if name in numbers else it
                for name, it in members.items()
                if not (name in optional and it in (None, []))
            }
        )
        made._unknown = tuple(name for name, it in members.items() if name not in known and it not in (None, []))  # noqa: SLF001 (its own)
        return made

    def ignored(self) -> Sequence[str]:
        """The names of the members that were left out."""
        return self._unknown


def as_number(value: Any) -> Any:
    """What is to be a number, so that true and "12" are none: in a tuple they are none to pydantic either."""
    return (value,) if isinstance(value, bool | str) else value


def _text_or_nothing(value: Any) -> Any:
    return value if isinstance(value, str) else ""


class LeftOut(RequestObject):
    """Something that vendors' own servers do and this one can't, like a search in the web: left out, and named."""

    type: Annotated[str, BeforeValidator(_text_or_nothing, json_schema_input_type=Any)] = ""


def ignored_fields(value: Any, path: str = "") -> Iterator[str]:
    """The paths of what was left out of a request, as `tools.0.extra`; a whole object with its type, as
    `tools.0 (web_search)`.
    """
    if isinstance(value, LeftOut):
        yield f"{path} ({value.type})" if value.type else path
        return
    beginning = f"{path}." if path else ""
    if isinstance(value, RequestObject):
        for name in value.ignored():
            yield beginning + name
        for attribute, name in _nested(type(value)):
            yield from ignored_fields(getattr(value, attribute), beginning + name)
    elif isinstance(value, list | tuple):
        for index, one in enumerate(cast("Sequence[Any]", value)):
            yield from ignored_fields(one, f"{beginning}{index}")
    elif isinstance(value, Content):
        for name in value.unknown:
            yield beginning + name


@cache
def _names(model: type[BaseModel]) -> tuple[frozenset[str], frozenset[str]]:
    """The names of all members, and of those that may be left out."""
    names = {field.alias or attribute: field for attribute, field in model.model_fields.items()}
    return frozenset(names), frozenset(name for name, field in names.items() if not field.is_required())


@cache
def _numbers(model: type[BaseModel]) -> frozenset[str]:
    """The names of members that are numbers: true and "12" are none, although pydantic takes them for some. Those that
    read other values too look at what they get themselves.
    """
    types = {
        field.alias or attribute: {*_choices(field.annotation)} - {type(None)}
        for attribute, field in model.model_fields.items()
        if not any(isinstance(one, BeforeValidator) for one in field.metadata)
    }
    return frozenset(name for name, given in types.items() if given and given <= {int, float})


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)


@cache
def _nested(model: type[BaseModel]) -> tuple[tuple[str, str], ...]:
    """Attributes, with the members' names, in which there are objects that may have unknown members."""
    return tuple(
        (attribute, field.alias or attribute)
        for attribute, field in model.model_fields.items()
        if _holds_objects(field.annotation)
    )


def _holds_objects(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, RequestObject | Content):
        return True
    return any(_holds_objects(argument) for argument in get_args(annotation))


NoOp = Annotated[Any, Field(json_schema_extra={"no_op": True})]
"""A field that these APIs know and that changes nothing here; docs/api.md lists them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Refuses any value that asks for something. `sentence`: what to do instead."""

    sentence: str

    def __call__(self, value: Any) -> Any:
        """Raises ValueError."""
        if value in ("", {}, False):
            return None
        raise ValueError(self.sentence)


def refused(sentence: str) -> BeforeValidator:
    """For a field that these APIs know and that can't be served, since what it asks for would change the answer."""
    return BeforeValidator(Refusal(sentence))


StopText = Annotated[str, Field(min_length=1, max_length=MOST_STOP_CHARACTERS)]
"""A text that ends an answer."""


def _not_too_deep(schema: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [schema]
    for _ in range(MOST_SCHEMA_LEVELS):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return schema
    raise ValueError(f"It has more than {MOST_SCHEMA_LEVELS} levels inside of each other. Make it flatter")


def _inside(value: Any) -> list[Any]:
    inner = cast("dict[str, Any]", value).values() if isinstance(value, dict) else cast("list[Any]", value)
    return [one for one in inner if isinstance(one, dict | list)]


JsonSchema = Annotated[dict[str, Any], AfterValidator(_not_too_deep)]
"""A JSON schema, of which nothing is known but that it can be walked through."""


ANY_OBJECT = '{"type":"object"}'
"""The JSON schema, as text, of any object."""


def type_of(value: Any) -> str | None:
    """The member `type` of a JSON object; None where there is no such text."""
    kind = cast("dict[str, Any]", value).get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None
