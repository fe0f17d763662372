"""The input of `/v1/responses`: a text or a list of items, and the turns of a conversation that they come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from runtime.errors import InvalidRequest, Unsupported
from runtime.http.schema.decoding import Unread, check_depth, decode_field
from runtime.http.schema.turns import not_text, parsed_arguments

MAX_INPUT_BYTES = 32 * 2**20
TEXT_PARTS = frozenset({"input_text", "output_text", "text", "reasoning_text", "summary_text"})


class Part(msgspec.Struct, kw_only=True):
    """Keys of other types of parts are not looked at."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(msgspec.Struct, kw_only=True):
    """Of any type; an item without one is a message. Items of an earlier output come back with keys that are not needed."""

    type: str = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None
    summary: list[Part] | None = None


def items_of_input(field: Unread) -> list[dict[str, Any]]:
    """The items as the client wrote them; a text is a message of the user. Raises `InvalidRequest`."""
    if bytes(memoryview(field)[:1]) == b'"':
        text = decode_field(field, str, "input", MAX_INPUT_BYTES)
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]
    value = decode_field(field, list[dict[str, Any]], "input", MAX_INPUT_BYTES)
    if not value:
        raise InvalidRequest("input must not be empty", param="input")
    check_depth(value, "input")
    return value


def turns_of_items(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As chat templates see them. Raises `InvalidRequest` that names the offending item."""
    turns: list[dict[str, Any]] = []
    reasoning: str | None = None
    for position, raw in enumerate(items):
        param = f"input[{position}]"
        item = _read(raw, param)
        if item.type == "reasoning":
            reasoning = _reasoning(item, param)
            continue
        _add(turns, item, param, reasoning)
        reasoning = None
    if not turns:
        raise InvalidRequest("input must have more than reasoning", param="input")
    return turns


def _read(raw: dict[str, Any], param: str) -> InputItem:
    try:
        return msgspec.convert(raw, InputItem)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        raise InvalidRequest(f"{param}: {what}"[:200], param=param + path.rstrip("`")) from None


def _add(turns: list[dict[str, Any]], item: InputItem, param: str, reasoning: str | None) -> None:
    """Append what `item` comes to; a call belongs to the assistant's turn before it, if there is one."""
    thought: dict[str, Any] = {} if reasoning is None else {"reasoning_content": reasoning}
    match item.type:
        case "message":
            turns.append(_message(item, param) | (thought if item.role == "assistant" else {}))
        case "function_call":
            if not turns or turns[-1]["role"] != "assistant" or reasoning is not None:
                turns.append({"role": "assistant", "content": "", **thought})
            turns[-1].setdefault("tool_calls", []).append(_call(item, param))
        case "function_call_output":
            output = _text(_needed(item.output, f"{param}.output"), f"{param}.output")
            turns.append({"role": "tool", "tool_call_id": item.call_id, "content": output})
        case _:
            raise Unsupported(f"input items of type {item.type[:40]!r} are not supported", param=f"{param}.type")


def _message(item: InputItem, param: str) -> dict[str, Any]:
    role = _needed(item.role, f"{param}.role")
    content = _text(_needed(item.content, f"{param}.content"), f"{param}.content")
    return {"role": "system" if role == "developer" else role, "content": content}


def _call(item: InputItem, param: str) -> dict[str, Any]:
    function = {
        "name": _needed(item.name, f"{param}.name"),
        "arguments": parsed_arguments(item.arguments, f"{param}.arguments"),
    }
    return {"id": _needed(item.call_id, f"{param}.call_id"), "type": "function", "function": function}


def _reasoning(item: InputItem, param: str) -> str:
    """What was thought, or else what is known of it."""
    return _text(item.content or item.summary or "", f"{param}.content")


def _needed(value: Any, param: str) -> Any:
    if value is None:
        raise InvalidRequest(f"{param} is needed", param=param)
    return value


def _text(content: str | list[Part], param: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(_part_text(part, f"{param}[{position}]") for position, part in enumerate(content))


def _part_text(part: Part, param: str) -> str:
    if part.type == "refusal":
        return part.refusal or ""
    if part.type not in TEXT_PARTS:
        raise not_text(part.type, f"{param}.type")
    if part.text is None:
        raise InvalidRequest("a text part needs text", param=f"{param}.text")
    return part.text
