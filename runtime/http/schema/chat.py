"""The body of `/v1/chat/completions`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from runtime.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from runtime.http.generation import Generation
from runtime.http.info import ServerInfo
from runtime.http.schema import openai
from runtime.http.schema.choices import Caller, choices_of
from runtime.http.schema.decoding import UNREAD, Unread, check_depth, decode, is_set, refuse
from runtime.params import ChatPrompt

NOT_YET: dict[str, tuple[Any, ...]] = openai.NOT_YET | {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "input_ids": (),
}
TEMPLATE_NAMES = frozenset({"messages", "add_generation_prompt", "continue_final_message", "tools", "documents"})
"""Variables of the template that have their own fields."""

MAX_TEMPLATE_ARGUMENTS_BYTES = 64 * 2**10


class ContentPart(msgspec.Struct, kw_only=True):
    """Keys of other types of parts are not looked at."""

    type: str
    text: str | None = None


class Turn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    tool_calls: Unread = UNREAD
    function_call: Unread = UNREAD

    refusal: Unread = UNREAD
    audio: Unread = UNREAD
    annotations: Unread = UNREAD


class ChatCompletionRequest(openai.OpenAiRequest, kw_only=True, forbid_unknown_fields=True):
    messages: list[Turn]
    max_completion_tokens: int | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: Unread = UNREAD

    logprobs: Unread = UNREAD
    top_logprobs: Unread = UNREAD
    tools: Unread = UNREAD
    tool_choice: Unread = UNREAD
    functions: Unread = UNREAD
    function_call: Unread = UNREAD
    audio: Unread = UNREAD
    input_ids: Unread = UNREAD

    modalities: Unread = UNREAD
    parallel_tool_calls: Unread = UNREAD
    prediction: Unread = UNREAD
    reasoning: Unread = UNREAD
    reasoning_effort: Unread = UNREAD
    separate_reasoning: Unread = UNREAD
    stream_reasoning: Unread = UNREAD
    verbosity: Unread = UNREAD
    web_search_options: Unread = UNREAD


def generations_of(request: ChatCompletionRequest, caller: Caller) -> list[Generation]:
    """The sequences to generate, one per choice. Raises `RequestError`."""
    openai.check_model(request.model, caller.info)
    openai.check_stream_options(request)
    refuse(request, NOT_YET)
    param = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    max_tokens = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    params, text, n = openai.options_of(request, max_tokens, param, caller.info)
    template = Generation(
        prompt=_prompt(request, caller.info),
        params=params,
        text=text,
        priority=request.priority or 0,
        label=request.rid or caller.label,
    )
    return choices_of(template, n, request.seed, caller.draw_seed)


def _prompt(request: ChatCompletionRequest, info: ServerInfo) -> ChatPrompt:
    if not request.messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    if len(request.messages) > info.context_length:
        message = f"there are {len(request.messages)} messages, but the model's context is {info.context_length} tokens"
        raise ContextLengthExceeded(message, param="messages")
    continues = bool(request.continue_final_message)
    if continues and request.messages[-1].role != "assistant":
        raise InvalidRequest("continue_final_message needs an assistant message at the end", param="continue_final_message")
    return ChatPrompt(
        turns=tuple(_turn(turn, f"messages[{position}]") for position, turn in enumerate(request.messages)),
        add_generation_prompt=not continues if request.add_generation_prompt is None else request.add_generation_prompt,
        continue_final_message=continues,
        template_arguments=_template_arguments(request.chat_template_kwargs),
    )


def _template_arguments(field: Unread) -> dict[str, Any]:
    param = "chat_template_kwargs"
    if not is_set(field):
        return {}
    if len(bytes(field)) > MAX_TEMPLATE_ARGUMENTS_BYTES:
        raise InvalidRequest(f"{param} is larger than {MAX_TEMPLATE_ARGUMENTS_BYTES} bytes", param=param)
    try:
        arguments = decode(bytes(field), dict[str, Any])
    except InvalidRequest as error:
        raise InvalidRequest(error.failure.message, param=param) from None
    for name in arguments:
        if name in TEMPLATE_NAMES:
            raise InvalidRequest(f"{name} has a field of its own", param=f"{param}.{name}")
    check_depth(arguments, param)
    return arguments


def _turn(turn: Turn, param: str) -> dict[str, Any]:
    """As templates see it: they know no developer, who is the system by another name, and no content but text."""
    if is_set(turn.tool_calls) or is_set(turn.function_call):
        raise Unsupported("tool calls are not supported", param=f"{param}.tool_calls")
    if turn.content is None and turn.role != "assistant":
        raise InvalidRequest(f"{param} needs content", param=f"{param}.content")
    seen: dict[str, Any] = {
        "role": "system" if turn.role == "developer" else turn.role,
        "content": _text(turn.content, f"{param}.content"),
    }
    optional = {"name": turn.name, "tool_call_id": turn.tool_call_id, "reasoning_content": turn.reasoning_content}
    return seen | {name: value for name, value in optional.items() if value is not None}


def _text(content: str | list[ContentPart] | None, param: str) -> str:
    """Parts are joined by a space, as SGLang does for templates that want text."""
    if content is None or isinstance(content, str):
        return content or ""
    for position, part in enumerate(content):
        if part.type != "text":
            message = f"content parts of type {part.type[:40]!r} are not supported"
            raise Unsupported(message, param=f"{param}[{position}].type")
        if part.text is None:
            raise InvalidRequest("a text part needs text", param=f"{param}[{position}].text")
    return " ".join(part.text or "" for part in content)
