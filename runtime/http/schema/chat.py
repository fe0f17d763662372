"""The body of `/v1/chat/completions`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from runtime.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from runtime.http.generation import Generation
from runtime.http.info import ServerInfo
from runtime.http.schema import openai
from runtime.http.schema.choices import Caller, choices_of
from runtime.http.schema.decoding import check_depth, refuse
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
    tool_calls: Any = None
    function_call: Any = None

    refusal: Any = None
    audio: Any = None
    annotations: Any = None


class ChatCompletionRequest(openai.OpenAiRequest, kw_only=True, forbid_unknown_fields=True):
    messages: list[Turn]
    max_completion_tokens: int | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    logprobs: Any = None
    top_logprobs: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    input_ids: Any = None

    modalities: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    reasoning: Any = None
    reasoning_effort: Any = None
    separate_reasoning: Any = None
    stream_reasoning: Any = None
    verbosity: Any = None
    web_search_options: Any = None


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


def _template_arguments(arguments: dict[str, Any] | None) -> dict[str, Any]:
    if not arguments:
        return {}
    for name in arguments:
        if name in TEMPLATE_NAMES:
            raise InvalidRequest(f"{name} has a field of its own", param=f"chat_template_kwargs.{name}")
    check_depth(arguments, "chat_template_kwargs")
    return arguments


def _turn(turn: Turn, param: str) -> dict[str, Any]:
    """As templates see it: they know no developer, who is the system by another name, and no content but text."""
    if turn.tool_calls or turn.function_call:
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
