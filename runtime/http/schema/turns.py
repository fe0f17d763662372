"""Turns of a conversation as clients write them, and as chat templates see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from runtime.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from runtime.http.info import ServerInfo
from runtime.http.schema.decoding import UNREAD, Unread, check_depth, decode_field, is_set

MAX_ARGUMENTS_BYTES = 2**20


class ContentPart(msgspec.Struct, kw_only=True):
    """Keys of other types of parts are not looked at."""

    type: str
    text: str | None = None


class CalledFunction(msgspec.Struct, kw_only=True):
    name: str
    arguments: str | dict[str, Any] | None = None


class TurnCall(msgspec.Struct, kw_only=True):
    function: CalledFunction
    id: str | None = None
    type: Literal["function"] | None = None


class Turn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[TurnCall] | None = None

    function_call: Unread = UNREAD
    refusal: Unread = UNREAD
    audio: Unread = UNREAD
    annotations: Unread = UNREAD


def template_turns(turns: Sequence[Turn], info: ServerInfo) -> tuple[dict[str, Any], ...]:
    """Raises `InvalidRequest` that names the offending place."""
    if not turns:
        raise InvalidRequest("messages must not be empty", param="messages")
    check_num_turns(len(turns), "messages", info)
    return tuple(_template_turn(turn, f"messages[{position}]") for position, turn in enumerate(turns))


def check_num_turns(num_turns: int, param: str, info: ServerInfo) -> None:
    """Every turn is a token at least. Raises `ContextLengthExceeded`."""
    if num_turns > info.context_length:
        message = f"there are {num_turns} messages, but the model's context is {info.context_length} tokens"
        raise ContextLengthExceeded(message, param=param)


def parsed_arguments(arguments: str | dict[str, Any] | None, param: str) -> dict[str, Any]:
    """The arguments of a call as templates want them: an object. Raises `InvalidRequest`."""
    value = _decoded(arguments, param) if isinstance(arguments, str) else arguments
    check_depth(value, param)
    return value if isinstance(value, dict) else {}


def _decoded(arguments: str, param: str) -> dict[str, Any]:
    return decode_field(Unread(arguments.encode()), dict[str, Any], param, MAX_ARGUMENTS_BYTES) if arguments else {}


def not_text(kind: str, param: str) -> Unsupported:
    """The refusal of a part of type `kind`."""
    message = f"content parts of type {kind[:40]!r} are not supported: for now this server takes text only, no images"
    return Unsupported(message, param=param)


def _template_turn(turn: Turn, param: str) -> dict[str, Any]:
    """Templates know no developer, who is the system by another name, and no content but text."""
    if is_set(turn.function_call):
        raise Unsupported("function_call was replaced by tool_calls", param=f"{param}.function_call")
    if turn.content is None and turn.role != "assistant":
        raise InvalidRequest(f"{param} needs content", param=f"{param}.content")
    seen: dict[str, Any] = {
        "role": "system" if turn.role == "developer" else turn.role,
        "content": _text(turn.content, f"{param}.content"),
    }
    optional = {
        "name": turn.name,
        "tool_call_id": turn.tool_call_id,
        "reasoning_content": turn.reasoning_content or turn.reasoning,
        "tool_calls": _calls(turn, param) or None,
    }
    return seen | {name: value for name, value in optional.items() if value is not None}


def _calls(turn: Turn, param: str) -> list[dict[str, Any]]:
    if turn.tool_calls and turn.role != "assistant":
        raise InvalidRequest("only the assistant calls tools", param=f"{param}.tool_calls")
    return [_call(call, f"{param}.tool_calls[{position}]") for position, call in enumerate(turn.tool_calls or ())]


def _call(call: TurnCall, param: str) -> dict[str, Any]:
    arguments = parsed_arguments(call.function.arguments, f"{param}.function.arguments")
    seen: dict[str, Any] = {"type": "function", "function": {"name": call.function.name, "arguments": arguments}}
    return seen if call.id is None else {"id": call.id, **seen}


def _text(content: str | list[ContentPart] | None, param: str) -> str:
    """Parts are joined by a space, as SGLang does for templates that want text."""
    if content is None or isinstance(content, str):
        return content or ""
    for position, part in enumerate(content):
        if part.type != "text":
            raise not_text(part.type, f"{param}[{position}].type")
        if part.text is None:
            raise InvalidRequest("a text part needs text", param=f"{param}[{position}].text")
    return " ".join(part.text or "" for part in content)
