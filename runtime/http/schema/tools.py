"""Tools that a model may call, and which of them it has to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from runtime.errors import InvalidRequest
from runtime.http.schema.decoding import Unread, check_depth, decode_field, is_null

MAX_TOOLS = 256
MAX_TOOLS_BYTES = 2**20

FunctionName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]


class Function(msgspec.Struct, kw_only=True):
    """Other keys are for the template."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, kw_only=True):
    function: Function
    type: Literal["function"]


class ChosenFunction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str


class NamedTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    function: ChosenFunction
    type: Literal["function"]


Tools = Annotated[
    Unread,
    msgspec.Meta(extra_json_schema={"type": ["array", "null"], "items": {"type": "object", "required": ["type", "function"]}}),
]
"""Left unread, since templates show tools to the model as the client wrote them, in its order of keys."""

ToolChoice = Literal["none", "auto", "required"] | NamedTool


class ToolSet(msgspec.Struct, frozen=True, kw_only=True):
    """What a request leaves to the model: tools as the template and the parser see them."""

    tools: tuple[dict[str, Any], ...] = ()
    is_required: bool = False
    is_single: bool = False
    """The one tool that is left is called once."""


def read_tools(field: Tools) -> list[dict[str, Any]]:
    """The client's tools, checked. Raises `InvalidRequest`."""
    if is_null(field):
        return []
    tools = decode_field(field, list[dict[str, Any]], "tools", MAX_TOOLS_BYTES)
    check_tools(tools)
    return tools


def check_tools(tools: Sequence[dict[str, Any]]) -> None:
    """Raise `InvalidRequest` unless they are functions with different names."""
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"at most {MAX_TOOLS} tools are allowed", param="tools")
    names: set[str] = set()
    for position, tool in enumerate(tools):
        param = f"tools[{position}]"
        function = _checked(tool, param).function
        if function.name in names:
            raise InvalidRequest(f"there are two tools with the name {function.name!r}", param=param)
        names.add(function.name)
        check_parameters(function.parameters or {}, f"{param}.function.parameters")


def check_parameters(schema: dict[str, Any], param: str) -> None:
    """Raise `InvalidRequest` if `schema` is of something else than an object, which the arguments of a call always are."""
    types = schema.get("type", "object")
    if "object" not in (types if isinstance(types, list) else [types]):
        written = msgspec.json.encode(types).decode()[:100]
        raise InvalidRequest(f'{param} must be the schema of an object: its type must be "object", not {written}', param=param)


def tool_set_of(tools: Sequence[dict[str, Any]], choice: ToolChoice | None) -> ToolSet:
    """Raises `InvalidRequest`. A choice of `none` leaves no tools, and a named one leaves that tool, as in SGLang."""
    if isinstance(choice, NamedTool):
        return ToolSet(tools=_named(tools, choice.function.name), is_required=True, is_single=True)
    if choice == "required" and not tools:
        raise InvalidRequest("tool_choice needs tools to choose from", param="tool_choice")
    if choice == "none":
        return ToolSet()
    return ToolSet(tools=tuple(tools), is_required=choice == "required")


def _checked(tool: dict[str, Any], param: str) -> Tool:
    check_depth(tool, param)
    try:
        return msgspec.convert(tool, Tool)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        raise InvalidRequest(f"{param}: {what}"[:200], param=param + path.rstrip("`")) from None


def _named(tools: Sequence[dict[str, Any]], name: str) -> tuple[dict[str, Any], ...]:
    found = tuple(tool for tool in tools if tool["function"]["name"] == name)
    if not found:
        raise InvalidRequest(f"there is no tool {name[:100]!r} among the tools", param="tool_choice")
    return found
