"""Tools and whether they are called, as Responses asks for them, keeps them and shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from quern.api.openai.tool_items import DESCRIPTIONS, PARAMETERS, qualified_name
from quern.api.shared.custom_tools import CUSTOM, GRAMMAR, CustomFormat, custom_tool
from quern.api.shared.fields import JsonSchema, LeftOut, NoOp, RequestObject, type_of
from quern.api.shared.tools import ANY, FUNCTION, MOST_TOOLS, NO_PARAMETERS, ToolName, mode_of, tool_use
from quern.turns.request import CallMode, ToolUse
from quern.types import GrammarSyntax, InputGrammar, Tool, ToolKind

LEFT_OUT = "left out"
CLIENTS_TOOLS = frozenset({"local_shell", "shell", "apply_patch"})
KINDS = {
    **{kind: kind for kind in ("function", "custom", "namespace", "shell")},
    **dict.fromkeys(("local_shell", "apply_patch"), "client"),
}


def _writable(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Python's JSON reader takes what JSON does not have. Raises ValueError for it."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise ValueError("It has a number or a character that JSON can't hold. Leave it out") from None
    return value


Json = Annotated[JsonSchema, AfterValidator(_writable)]
"""A JSON object that can be written again."""


class FunctionTool(RequestObject):
    """A function. `strict` counts where a call is demanded."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None
    allowed_callers: NoOp = None
    async_: NoOp = Field(default=None, alias="async")
    defer_loading: NoOp = None
    output_schema: NoOp = None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return self.model_dump(include={"type", "name", "description", "parameters", "strict"})


class CustomTool(RequestObject):
    """A tool that takes one text."""

    type: Literal["custom"]
    name: ToolName
    description: str | None = None
    format: CustomFormat = None
    allowed_callers: NoOp = None
    async_: NoOp = Field(default=None, alias="async")
    defer_loading: NoOp = None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON."""
        grammar = self.format.input_grammar() if self.format is not None else None
        format_ = {"type": "text"} if grammar is None else {"type": GRAMMAR, **asdict(grammar)}
        return {"type": CUSTOM, "name": self.name, "description": self.description, "format": format_}


class ClientsTool(RequestObject):
    """A tool of OpenAI's that the client runs."""

    type: Literal["local_shell", "apply_patch"]
    allowed_callers: NoOp = None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"type": self.type}


class LocalEnvironment(RequestObject):
    """The client's own machine."""

    type: Literal["local"]
    skills: NoOp = None


class ShellTool(RequestObject):
    """Command lines that the client runs; those that OpenAI's containers would run are left out."""

    type: Literal["shell"]
    environment: LocalEnvironment | None = None
    allowed_callers: NoOp = None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"type": "shell", "environment": {"type": "local"}}


GROUPED = frozenset({"function", "custom"})


def _in_group(value: Any) -> str:
    kind = type_of(value)
    return kind if kind in GROUPED else LEFT_OUT


class NamespaceTool(RequestObject):
    """A group of tools. Their names begin with its name to the model, and calls are told with its name beside."""

    type: Literal["namespace"]
    name: ToolName
    description: str | None = None
    tools: list[
        Annotated[
            Annotated[FunctionTool, Tag("function")]
            | Annotated[CustomTool, Tag("custom")]
            | Annotated[LeftOut, Tag(LEFT_OUT)],
            Discriminator(_in_group),
        ]
    ] = Field(default_factory=list[FunctionTool | CustomTool | LeftOut], max_length=MOST_TOOLS)

    def as_json(self) -> dict[str, Any]:
        """The same as JSON, without what is left out."""
        tools = [tool.as_json() for tool in self.tools if not isinstance(tool, LeftOut)]
        return {"type": "namespace", "name": self.name, "description": self.description or "", "tools": tools}


def _kind(value: Any) -> str:
    kind = type_of(value)
    if kind == "shell" and type_of(cast("dict[str, Any]", value).get("environment")) not in {None, "local"}:
        return LEFT_OUT
    return KINDS.get(kind or "", LEFT_OUT)


def _flat(tool: Any) -> Any:
    """A function or custom tool that stands inside of its type's member, as in Chat Completions, as one beside it."""
    members = cast("dict[str, Any]", tool) if isinstance(tool, dict) else {}
    kind = type_of(members)
    if kind not in {"function", "custom"} or not isinstance(inner := members.get(kind), dict) or "name" in members:
        return cast("Any", tool)
    return {**{name: value for name, value in members.items() if name != kind}, **cast("dict[str, Any]", inner)}


ResponseTool = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[CustomTool, Tag("custom")]
    | Annotated[NamespaceTool, Tag("namespace")]
    | Annotated[ShellTool, Tag("shell")]
    | Annotated[ClientsTool, Tag("client")]
    | Annotated[LeftOut, Tag(LEFT_OUT)],
    Discriminator(_kind),
    BeforeValidator(_flat),
]
"""A tool. What only OpenAI's own servers have, like a search in the web, is left out, and named."""


def _choice(value: Any) -> Any:
    """One of the modes, a tool, or some of the tools. Raises ValueError."""
    if value is None or value in list(CallMode):
        return value
    if value == ANY or (mode := mode_of(value)) == ANY:
        return CallMode.REQUIRED.value
    if mode is not None:
        return mode
    members = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    kind, name = type_of(members), members.get("name")
    if kind == FUNCTION and isinstance(nested := members.get(FUNCTION), dict):
        name = cast("dict[str, Any]", nested).get("name")
    if kind in GROUPED and isinstance(name, str):
        return {"type": kind, "name": name, **({"namespace": members["namespace"]} if members.get("namespace") else {})}
    if kind in CLIENTS_TOOLS:
        return {"type": kind}
    if kind == "allowed_tools" and isinstance(members.get("tools"), list):
        mode = members.get("mode") or CallMode.AUTO.value
        if mode in {CallMode.AUTO, CallMode.REQUIRED}:
            return {"type": kind, "mode": mode, "tools": _allowed(members["tools"])}
    if kind not in {None, *GROUPED, "allowed_tools"}:
        raise ValueError(
            f"A tool of the type {kind!r} can't be demanded: this server runs no tools of its own. Send 'auto', or let "
            f"a function be called"
        )
    raise ValueError("It must be 'auto', 'none', 'required' or {\"type\": \"function\", \"name\": …}")


def _allowed(tools: list[Any]) -> list[dict[str, Any]]:
    """Those of the allowed tools that can be there."""
    there = [cast("dict[str, Any]", one) for one in tools if type_of(one) in {*GROUPED, *CLIENTS_TOOLS, "namespace"}]
    return [
        {"type": one["type"], **({"name": one["name"]} if isinstance(one.get("name"), str) else {})} for one in there
    ]


ToolChoice = Annotated[
    Any,
    BeforeValidator(_choice),
    Field(json_schema_extra={"anyOf": [{"enum": list(CallMode)}, {"type": "object", "required": ["type"]}]}),
]
"""One of the modes, `{"type": "function", "name": …}` and the like, or `{"type": "allowed_tools", …}`."""


def read_tool_use(settings: Mapping[str, Any]) -> ToolUse:
    """The use of tools in a response's settings. Raises InvalidRequest where its parts don't fit each other."""
    choice: str | Mapping[str, Any] = settings["tool_choice"]
    tools = [tool for described in settings["tools"] for tool in _tools(described)]
    mode, only = (choice, None) if isinstance(choice, str) else (None, None)
    if isinstance(choice, Mapping) and choice["type"] == "allowed_tools":
        mode = choice["mode"]
        tools = [tool for tool in tools if any(_is_meant(tool, one) for one in choice["tools"])]
    elif isinstance(choice, Mapping):
        meant = next((tool.name for tool in tools if _is_meant(tool, choice)), None)
        only = meant or choice.get("name", choice["type"])
    return tool_use(tools, mode, only=only, parallel=settings["parallel_tool_calls"])


def _tools(described: Mapping[str, Any], namespace: str | None = None) -> Iterator[Tool]:
    """What the model is shown of a tool, or of each tool of a group."""
    kind = described["type"]
    if kind == "namespace":
        for tool in described["tools"]:
            yield from _tools(tool, described["name"])
    elif kind in CLIENTS_TOOLS:
        of_client = ToolKind(kind)
        yield Tool(kind, DESCRIPTIONS[of_client], PARAMETERS[of_client], kind=of_client)
    else:
        name, description = qualified_name(namespace, described["name"]), described["description"] or ""
        if kind == "custom":
            yield custom_tool(name, description, _grammar(described["format"]), namespace)
        else:
            parameters = described["parameters"] or NO_PARAMETERS
            yield Tool(name, description, parameters, bool(described["strict"]), namespace=namespace)


def _grammar(described: Mapping[str, Any]) -> InputGrammar | None:
    if described["type"] == "text":
        return None
    return InputGrammar(GrammarSyntax(described["syntax"]), described["definition"])


def _is_meant(tool: Tool, choice: Mapping[str, Any]) -> bool:
    """Whether a choice names the tool: by the name that the model is shown, or by its own in its group."""
    if choice["type"] in CLIENTS_TOOLS:
        return tool.kind == choice["type"]
    name = choice.get("name")
    if choice["type"] == "namespace":
        return tool.namespace == name
    return tool.name in {name, qualified_name(choice.get("namespace") or tool.namespace, str(name))}
