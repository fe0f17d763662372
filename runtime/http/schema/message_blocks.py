"""The conversation of `/v1/messages`: content blocks, and the turns that they come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from runtime.errors import InvalidRequest
from runtime.http.schema.decoding import check_depth
from runtime.http.schema.turns import not_text


class Block(msgspec.Struct, kw_only=True):
    """Of any type; keys that only other types have, and hints for caches, are not looked at."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None
    thinking: str | None = None


class MessageTurn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


def turns_of_messages(messages: Sequence[MessageTurn], system: str | list[Block] | None) -> tuple[dict[str, Any], ...]:
    """As chat templates see them. Raises `InvalidRequest` that names the offending place."""
    turns: list[dict[str, Any]] = []
    if system:
        turns.append({"role": "system", "content": _text(system, "system")})
    for position, message in enumerate(messages):
        param = f"messages[{position}].content"
        turns += _assistant(message, param) if message.role == "assistant" else _others(message, param)
    return tuple(turns)


def _assistant(message: MessageTurn, param: str) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"role": "assistant", "content": message.content}]
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for position, block in enumerate(message.content):
        place = f"{param}[{position}]"
        match block.type:
            case "thinking":
                thoughts.append(block.thinking or "")
            case "redacted_thinking":
                pass  # nobody here can read it
            case "tool_use":
                calls.append(_call(block, place))
            case _:
                texts.append(_block_text(block, place))
    turn: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    optional = {"reasoning_content": "".join(thoughts), "tool_calls": calls}
    return [turn | {name: value for name, value in optional.items() if value}]


def _others(message: MessageTurn, param: str) -> list[dict[str, Any]]:
    """Results of tools are turns of their own, before what the user says to them."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results: list[dict[str, Any]] = []
    texts: list[str] = []
    for position, block in enumerate(message.content):
        place = f"{param}[{position}]"
        if block.type == "tool_result":
            results.append(_result(block, place))
        else:
            texts.append(_block_text(block, place))
    said = [{"role": message.role, "content": "\n".join(texts)}] if texts or not results else []
    return results + said


def _call(block: Block, param: str) -> dict[str, Any]:
    if block.name is None or block.id is None:
        raise InvalidRequest("a tool_use block needs id and name", param=param)
    check_depth(block.input, param)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input or {}}}


def _result(block: Block, param: str) -> dict[str, Any]:
    if block.tool_use_id is None:
        raise InvalidRequest("a tool_result block needs tool_use_id", param=param)
    text = _text(block.content or "", f"{param}.content")
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": f"Error: {text}" if block.is_error else text}


def _text(content: str | list[Block], param: str) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_block_text(block, f"{param}[{position}]") for position, block in enumerate(content))


def _block_text(block: Block, param: str) -> str:
    if block.type != "text":
        raise not_text(block.type, f"{param}.type")
    if block.text is None:
        raise InvalidRequest("a text block needs text", param=f"{param}.text")
    return block.text
