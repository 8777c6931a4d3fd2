"""Tools and whether they are called: what all dialects check, and how Chat Completions describes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag

from quern.api.shared.fields import JsonSchema, LeftOut, RequestObject, type_of
from quern.errors import InvalidRequest
from quern.turns.request import CallMode, ToolUse
from quern.types import Tool

MOST_TOOLS = 256
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,128}$")]
FUNCTION = "function"
ANY = "any"


class Function(RequestObject):
    """A function, as Chat Completions describes it. `strict` counts where a call is demanded."""

    name: ToolName
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """The same as a value."""
        return Tool(self.name, self.description or "", self.parameters or NO_PARAMETERS, strict=bool(self.strict))


class ChatTool(RequestObject):
    """A tool of Chat Completions."""

    type: Literal["function"] = FUNCTION
    function: Function


def _nested(tool: Any) -> Any:
    """A function that stands beside its type, as in the Responses API, as one inside of it."""
    if not isinstance(tool, dict) or type_of(tool) not in {None, FUNCTION} or FUNCTION in tool or "name" not in tool:
        return cast("Any", tool)
    members = cast("dict[str, Any]", tool)
    return {"type": FUNCTION, FUNCTION: {name: value for name, value in members.items() if name != "type"}}


def _tool_kind(tool: Any) -> str:
    if isinstance(tool, LeftOut):
        return "other"
    return FUNCTION if isinstance(tool, ChatTool) or type_of(tool) in {None, FUNCTION} else "other"


OfferedTool = Annotated[
    Annotated[ChatTool, Tag(FUNCTION)] | Annotated[LeftOut, Tag("other")],
    Discriminator(_tool_kind),
    BeforeValidator(_nested),
]
"""A function, or a tool that only a vendor's own server has, which is left out and named."""


def functions_of(tools: Iterable[ChatTool | LeftOut] | None) -> list[Tool]:
    """The tools that a model can be shown."""
    return [tool.function.tool() for tool in tools or () if isinstance(tool, ChatTool)]


class NamedFunction(RequestObject):
    """A function's name."""

    name: str


class NamedTool(RequestObject):
    """The tool that must be called, as Chat Completions names it."""

    type: Literal["function"]
    function: NamedFunction


class AllowedNames(RequestObject):
    """The tools that may be called, and whether one must be. Those that are no functions are left out."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[Any] = Field(min_length=1, max_length=MOST_TOOLS)

    def ignored(self) -> Sequence[str]:
        """See `RequestObject.ignored`."""
        others = [
            f"tools.{index} ({type_of(tool)})" for index, tool in enumerate(self.tools) if _function_name(tool) is None
        ]
        return [*super().ignored(), *others]


class AllowedTools(RequestObject):
    """Some of the tools, as Chat Completions names them."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedNames

    def names(self) -> list[str]:
        """The functions' names."""
        return [name for tool in self.allowed_tools.tools if (name := _function_name(tool)) is not None]


def _function_name(tool: Any) -> str | None:
    match _nested(tool):
        case {"function": {"name": str(name)}}:
            return name
        case _:
            return None


class OtherTool(RequestObject):
    """A tool of another type that must be called."""

    type: str


def _choice_kind(choice: Any) -> str:
    if isinstance(choice, str):
        return "mode"
    kind = choice.type if isinstance(choice, NamedTool | AllowedTools | OtherTool) else type_of(choice)
    return kind if kind in {FUNCTION, "allowed_tools"} else "other"


def mode_of(choice: Any) -> str | None:
    """The mode in Anthropic's shape, `{"type": "auto"}`; None for what is none."""
    kind = type_of(choice)
    return kind if kind in {*CallMode, ANY} else None


def _named(choice: Any) -> Any:
    """The same in Chat Completions' own shape."""
    match choice:
        case {"type": "tool", "name": str(name)}:
            return {"type": FUNCTION, FUNCTION: {"name": name}}
        case _:
            return mode_of(choice) or _nested(choice)


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required", "any"], Tag("mode")]
    | Annotated[NamedTool, Tag(FUNCTION)]
    | Annotated[AllowedTools, Tag("allowed_tools")]
    | Annotated[OtherTool, Tag("other")],
    Discriminator(_choice_kind),
    BeforeValidator(_named),
]
"""Whether a tool is called, and which. `any` is Mistral's word for `required`; some clients send Anthropic's shape."""


def chosen_tools(tools: Sequence[Tool], choice: ToolChoice | None, *, parallel: bool) -> ToolUse:
    """The use of tools that Chat Completions asks for. Raises InvalidRequest where its parts don't fit each other."""
    match choice:
        case NamedTool():
            return tool_use(tools, None, only=choice.function.name, parallel=parallel)
        case AllowedTools():
            names = choice.names()
            for name in names:
                _check_offered(name, tools)
            allowed = [tool for tool in tools if tool.name in names]
            return tool_use(allowed, choice.allowed_tools.mode, only=None, parallel=parallel)
        case OtherTool():
            raise InvalidRequest(
                f"A tool of the type {choice.type!r} must be called, and this server has none. Name a function, or "
                f"leave tool_choice out.",
                field="tool_choice",
            )
        case _:
            return tool_use(tools, CallMode.REQUIRED if choice == ANY else choice, only=None, parallel=parallel)


def tool_use(
    tools: Sequence[Tool],
    choice: str | None,
    *,
    only: str | None,
    parallel: bool,
    choice_field: str = "tool_choice",
) -> ToolUse:
    """The use of tools that a request asks for; a tool that is sent twice counts once. `choice_field`: the field of the
    request that has the choice.

    Raises InvalidRequest where its parts don't fit each other.
    """
    if len(tools) > MOST_TOOLS:
        raise InvalidRequest(f"A model is shown {MOST_TOOLS} tools at most, and these are {len(tools)}.", field="tools")
    different = [tool for index, tool in enumerate(tools) if tool not in tools[:index]]
    names = Counter(tool.name for tool in different)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise InvalidRequest(f"Two tools have the name {twice!r}. Give each a name of its own.", field="tools")
    if only is not None:
        _check_offered(only, different, choice_field)
    if choice == CallMode.REQUIRED and not different:
        raise InvalidRequest(
            f"A tool must be called, but there are no tools. Send some, or leave {choice_field} out.",
            field=choice_field,
        )
    mode = CallMode.REQUIRED if only is not None else CallMode(choice or CallMode.AUTO)
    return ToolUse(tuple(different), mode, only, parallel)


def _check_offered(name: str, tools: Sequence[Tool], field: str = "tool_choice") -> None:
    if all(tool.name != name for tool in tools):
        raise InvalidRequest(
            f"The tool {name!r} must be called, but it is not among the tools. Send it there, or name one that is.",
            field=field,
        )
