"""The body of `/v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from runtime.errors import InvalidRequest
from runtime.http.generation import Generation
from runtime.http.info import ServerInfo
from runtime.http.schema import openai
from runtime.http.schema.choices import Caller, choices_of
from runtime.http.schema.decoding import UNREAD, Unread, check_depth, decode_field, is_null, refuse
from runtime.http.schema.grammar import Found
from runtime.http.schema.logprobs import check_num_top
from runtime.http.schema.tools import ToolChoice, Tools, ToolSet, read_tools, tool_set_of
from runtime.http.schema.turns import Turn, template_turns
from runtime.output_plan import OutputPlan, OutputWish
from runtime.params import ChatPrompt, LogprobOptions, TextOptions

NOT_YET: dict[str, tuple[Any, ...]] = openai.NOT_YET | {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"], []),
    "input_ids": (),
    "web_search_options": (),
}
TEMPLATE_NAMES = frozenset({"messages", "add_generation_prompt", "continue_final_message", "tools", "documents"})
"""Variables of the template that have their own fields."""

MAX_TEMPLATE_ARGUMENTS_BYTES = 64 * 2**10

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Reasoning(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    effort: Effort | None = None
    enabled: bool | None = None


class ChatCompletionRequest(openai.OpenAiRequest, kw_only=True, forbid_unknown_fields=True):
    """The last block of fields is accepted and has no effect."""

    messages: list[Turn]
    max_completion_tokens: int | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: Unread = UNREAD
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Tools = UNREAD
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: Effort | None = None
    separate_reasoning: bool | None = None
    stream_reasoning: bool | None = None

    functions: Unread = UNREAD
    function_call: Unread = UNREAD
    audio: Unread = UNREAD
    modalities: Unread = UNREAD
    input_ids: Unread = UNREAD
    web_search_options: Unread = UNREAD

    prediction: Unread = UNREAD
    verbosity: Unread = UNREAD


class ChatSequences(msgspec.Struct, frozen=True, kw_only=True):
    """What a chat request comes to: a sequence for each choice, and how to read what comes out."""

    generations: list[Generation]
    plan: OutputPlan
    grammar_param: str | None = None
    """The field that the grammar came from."""


def sequences_of(request: ChatCompletionRequest, caller: Caller) -> ChatSequences:
    """Raises `RequestError`."""
    openai.check_model(request.model, caller.info)
    openai.check_stream_options(request)
    refuse(request, NOT_YET)
    param = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    max_tokens = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    params, text, n = openai.options_of(request, max_tokens, param, caller.info)
    tools = tool_set_of(read_tools(request.tools), request.tool_choice)
    prompt = _prompt(request, tools, caller.info)
    constraint = openai.constraint_of(request)
    plan = caller.output_parsing.plan(_wish(request, tools, prompt, constraint))
    template = Generation(
        prompt=prompt,
        params=params,
        text=planned_text(text, plan),
        grammar=plan.grammar,
        logprobs=_logprobs(request),
        priority=request.priority or 0,
        label=request.rid or caller.label,
    )
    return ChatSequences(
        generations=choices_of(template, n, request.seed, caller.draw_seed),
        plan=plan,
        grammar_param="tools" if tools.is_required else constraint and constraint[0],
    )


def planned_text(text: TextOptions, plan: OutputPlan) -> TextOptions:
    """With the special tokens that the parser of `plan` looks for."""
    return msgspec.structs.replace(text, skip_special_tokens=False) if plan.keeps_special_tokens else text


def effort_arguments(effort: str | float | None, *, is_enabled: bool | None = None) -> dict[str, Any]:
    """The variables by which templates know whether to think, and how hard."""
    arguments: dict[str, Any] = {} if effort in (None, "none") else {"reasoning_effort": effort}
    thinks = False if effort == "none" else is_enabled
    return arguments if thinks is None else arguments | {"enable_thinking": thinks, "thinking": thinks}


def _wish(request: ChatCompletionRequest, tools: ToolSet, prompt: ChatPrompt, constraint: Found | None) -> OutputWish:
    if constraint is not None and tools.is_required:
        raise InvalidRequest("a required tool call and another constraint exclude each other", param="tool_choice")
    return OutputWish(
        tools=tools.tools,
        tool_choice="required" if tools.is_required else "auto",
        parallel_tool_calls=request.parallel_tool_calls is not False and not tools.is_single,
        separates_reasoning=request.separate_reasoning is not False,
        template_arguments={name: value for name, value in prompt.template_arguments.items() if name != "tools"},
        grammar=constraint and constraint[1],
    )


def _logprobs(request: ChatCompletionRequest) -> LogprobOptions | None:
    if not request.logprobs:
        if request.top_logprobs:
            raise InvalidRequest("top_logprobs needs logprobs", param="top_logprobs")
        return None
    num_top = request.top_logprobs or 0
    check_num_top(num_top, "top_logprobs")
    return LogprobOptions(num_top=num_top)


def _prompt(request: ChatCompletionRequest, tools: ToolSet, info: ServerInfo) -> ChatPrompt:
    turns = template_turns(request.messages, info)
    continues = bool(request.continue_final_message)
    if continues and request.messages[-1].role != "assistant":
        raise InvalidRequest("continue_final_message needs an assistant message at the end", param="continue_final_message")
    shown: dict[str, Any] = {"tools": list(tools.tools)} if tools.tools else {}
    return ChatPrompt(
        turns=turns,
        add_generation_prompt=not continues if request.add_generation_prompt is None else request.add_generation_prompt,
        continue_final_message=continues,
        template_arguments={**_reasoning_arguments(request), **_template_arguments(request.chat_template_kwargs), **shown},
    )


def _reasoning_arguments(request: ChatCompletionRequest) -> dict[str, Any]:
    reasoning = request.reasoning or Reasoning()
    effort = reasoning.effort if request.reasoning_effort is None else request.reasoning_effort
    return effort_arguments(effort, is_enabled=reasoning.enabled)


def _template_arguments(field: Unread) -> dict[str, Any]:
    param = "chat_template_kwargs"
    if is_null(field):
        return {}
    arguments = decode_field(field, dict[str, Any], param, MAX_TEMPLATE_ARGUMENTS_BYTES)
    for name in arguments:
        if name in TEMPLATE_NAMES:
            raise InvalidRequest(f"{name} has a field of its own", param=f"{param}.{name}")
    check_depth(arguments, param)
    return arguments
