"""The bodies of Anthropic's `/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from runtime.errors import InvalidRequest, Unsupported
from runtime.http.generation import Generation
from runtime.http.info import ServerInfo
from runtime.http.schema.chat import Effort, effort_arguments, planned_text
from runtime.http.schema.choices import Caller, choices_of
from runtime.http.schema.decoding import UNREAD, Unread, decode_field, is_null, refuse
from runtime.http.schema.grammar import json_schema
from runtime.http.schema.message_blocks import Block, MessageTurn, turns_of_messages
from runtime.http.schema.openai import check_model
from runtime.http.schema.sampling import SamplingFields, check_options, sampling_params_of
from runtime.http.schema.tools import (
    MAX_TOOLS_BYTES,
    ChosenFunction,
    NamedTool,
    ToolChoice,
    ToolSet,
    check_parameters,
    check_tools,
    tool_set_of,
)
from runtime.http.schema.turns import check_num_turns
from runtime.output_plan import OutputPlan, OutputWish
from runtime.params import ChatPrompt, GrammarSpec, TextOptions

NOT_YET: dict[str, tuple[Any, ...]] = {
    "mcp_servers": ([],),
    "container": (),
    "context_management": (),
    "output_format": (),
}
"""Fields of features that are not there, with the values (besides null) that do not ask for them."""


class ClaudeTool(msgspec.Struct, kw_only=True):
    """Other keys, such as hints for caches, are not looked at."""

    name: str
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None


class ClaudeChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A budget can not be enforced; it and `display` have no effect."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    display: Unread = UNREAD


class OutputFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    schema: Unread


class OutputConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    effort: Effort | None = None
    format: OutputFormat | None = None


class PromptFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What decides the prompt. The last block of fields is accepted and has no effect."""

    model: str
    messages: list[MessageTurn]
    system: str | list[Block] | None = None
    tools: Unread = UNREAD
    tool_choice: ClaudeChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None

    mcp_servers: Unread = UNREAD
    container: Unread = UNREAD
    context_management: Unread = UNREAD
    output_format: Unread = UNREAD

    cache_control: Unread = UNREAD
    speed: Unread = UNREAD


class CountTokensRequest(PromptFields, kw_only=True, forbid_unknown_fields=True):
    pass


class MessagesRequest(PromptFields, kw_only=True, forbid_unknown_fields=True):
    """The last block of fields is accepted and has no effect."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    metadata: Unread = UNREAD
    service_tier: Unread = UNREAD
    inference_geo: Unread = UNREAD


class MessageSequence(msgspec.Struct, frozen=True, kw_only=True):
    """What a request for a message comes to."""

    generation: Generation
    plan: OutputPlan


def sequence_of(request: MessagesRequest, caller: Caller) -> MessageSequence:
    """Raises `RequestError`."""
    prompt, tools = prompt_of(request, caller.info)
    plan = caller.output_parsing.plan(_wish(request, tools, prompt))
    if request.max_tokens < 1:
        raise InvalidRequest("max_tokens must be at least 1", param="max_tokens")
    fields = SamplingFields(temperature=request.temperature, top_p=request.top_p, top_k=request.top_k or None)
    params = sampling_params_of(fields, max_new_tokens=request.max_tokens, min_new_tokens=None, seed=None)
    text = TextOptions(stop=tuple(request.stop_sequences or ()))
    check_options(params, text, caller.info, names={"max_new_tokens": "max_tokens", "stop": "stop_sequences"})
    template = Generation(prompt=prompt, params=params, text=planned_text(text, plan), grammar=plan.grammar, label=caller.label)
    (generation,) = choices_of(template, 1, None, caller.draw_seed)
    return MessageSequence(generation=generation, plan=plan)


def prompt_of(request: PromptFields, info: ServerInfo) -> tuple[ChatPrompt, ToolSet]:
    """The prompt, and the tools that it shows. Raises `RequestError`."""
    check_model(request.model, info)
    refuse(request, NOT_YET)
    if not request.messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    check_num_turns(len(request.messages), "messages", info)
    tools = tool_set_of(_tools(request.tools), _choice(request.tool_choice))
    turns = turns_of_messages(request.messages, request.system)
    continues = turns[-1]["role"] == "assistant" and bool(turns[-1]["content"]) and "tool_calls" not in turns[-1]
    shown: dict[str, Any] = {"tools": list(tools.tools)} if tools.tools else {}
    prompt = ChatPrompt(
        turns=turns,
        add_generation_prompt=not continues,
        continue_final_message=continues,
        template_arguments={**_thinking_arguments(request), **shown},
    )
    return prompt, tools


def _wish(request: MessagesRequest, tools: ToolSet, prompt: ChatPrompt) -> OutputWish:
    grammar = _grammar(request.output_config)
    if grammar is not None and tools.is_required:
        raise InvalidRequest("a required tool call and another constraint exclude each other", param="tool_choice")
    return OutputWish(
        tools=tools.tools,
        tool_choice="required" if tools.is_required else "auto",
        parallel_tool_calls=allows_parallel_calls(request) and not tools.is_single,
        template_arguments={name: value for name, value in prompt.template_arguments.items() if name != "tools"},
        grammar=grammar,
    )


def allows_parallel_calls(request: PromptFields) -> bool:
    return request.tool_choice is None or not request.tool_choice.disable_parallel_tool_use


def _grammar(config: OutputConfig | None) -> GrammarSpec | None:
    if config is None or config.format is None:
        return None
    return json_schema(config.format.schema, "output_config.format.schema")


def _thinking_arguments(request: PromptFields) -> dict[str, Any]:
    """Who does not ask for thinking gets none, where the template leaves a choice."""
    thinks = request.thinking is not None and request.thinking.type != "disabled"
    effort = request.output_config.effort if request.output_config else None
    return effort_arguments(effort, is_enabled=thinks)


def _tools(field: Unread) -> list[dict[str, Any]]:
    """In the form of chats."""
    if is_null(field):
        return []
    tools = [
        _function(tool, f"tools[{position}]")
        for position, tool in enumerate(decode_field(field, list[ClaudeTool], "tools", MAX_TOOLS_BYTES))
    ]
    check_tools(tools)
    return tools


def _function(tool: ClaudeTool, param: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise Unsupported(f"tools of type {tool.type[:40]!r} are not supported, only custom ones", param=f"{param}.type")
    if tool.input_schema is None:
        raise InvalidRequest(f"{param} needs an input_schema", param=f"{param}.input_schema")
    check_parameters(tool.input_schema, f"{param}.input_schema")
    described = {} if tool.description is None else {"description": tool.description}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": tool.input_schema}}


def _choice(choice: ClaudeChoice | None) -> ToolChoice | None:
    if choice is None:
        return None
    if choice.type == "tool":
        return NamedTool(type="function", function=ChosenFunction(name=choice.name or ""))
    return {"auto": "auto", "any": "required", "none": "none"}[choice.type]  # type: ignore[return-value]
