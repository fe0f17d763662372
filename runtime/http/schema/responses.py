"""The body of `/v1/responses`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from runtime.errors import InvalidRequest, Unsupported
from runtime.http.generation import Generation
from runtime.http.schema.chat import Effort, effort_arguments, planned_text
from runtime.http.schema.choices import Caller, check_num_choices, choices_of
from runtime.http.schema.decoding import UNREAD, Label, Priority, Unread, check_depth, decode_field, is_null, refuse
from runtime.http.schema.grammar import MAX_SCHEMA_BYTES, Found, grammar_of, json_schema
from runtime.http.schema.logprobs import check_num_top
from runtime.http.schema.openai import StreamOptions, check_model
from runtime.http.schema.response_format import JSON_OBJECT
from runtime.http.schema.response_items import items_of_input, turns_of_items
from runtime.http.schema.sampling import SamplingFields, check_options, sampling_params_of, text_options_of
from runtime.http.schema.tools import MAX_TOOLS_BYTES, ChosenFunction, NamedTool, ToolChoice, ToolSet, check_tools, tool_set_of
from runtime.http.schema.turns import check_num_turns
from runtime.output_plan import OutputPlan, OutputWish
from runtime.params import ChatPrompt, GrammarSpec, LogprobOptions

MAX_METADATA_BYTES = 16 * 2**10
WITH_LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = frozenset({WITH_LOGPROBS, "reasoning.encrypted_content"})
"""The second changes nothing: reasoning is not secret here, and items have it in plain text."""

NOT_YET: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "conversation": (),
    "prompt": (),
    "truncation": ("disabled",),
    "moderation": (),
    "context_management": ([],),
}
"""Fields of features that are not there, with the values (besides null) that do not ask for them."""


class ReasoningOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """There are no summaries: the reasoning itself is returned."""

    effort: Effort | None = None
    summary: Unread = UNREAD
    generate_summary: Unread = UNREAD


class OutputFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    schema: Unread = UNREAD
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format: Unread = UNREAD
    verbosity: Unread = UNREAD


class NamedFunction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: str


class ResponsesRequest(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """Null means default everywhere. The last block of fields is accepted and has no effect."""

    input: Annotated[Unread, msgspec.Meta(extra_json_schema={"type": ["string", "array"]})]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: Label | None = None
    max_output_tokens: int | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    text: TextConfig | None = None
    tools: Unread = UNREAD
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    metadata: Unread = UNREAD
    priority: Priority | None = None

    background: Unread = UNREAD
    conversation: Unread = UNREAD
    prompt: Unread = UNREAD
    truncation: Unread = UNREAD
    moderation: Unread = UNREAD
    context_management: Unread = UNREAD

    max_tool_calls: Unread = UNREAD
    prompt_cache_key: Unread = UNREAD
    prompt_cache_options: Unread = UNREAD
    prompt_cache_retention: Unread = UNREAD
    safety_identifier: Unread = UNREAD
    service_tier: Unread = UNREAD
    user: Unread = UNREAD


class ResponseSequence(msgspec.Struct, frozen=True, kw_only=True):
    """What a request for a response comes to."""

    generation: Generation
    plan: OutputPlan
    items: list[dict[str, Any]]
    """The new input, as the client wrote it."""
    turns: tuple[dict[str, Any], ...]
    """The conversation so far, without the instructions, which are of this response only."""
    echo: dict[str, Any]
    """Fields of the request that the response repeats."""
    grammar_param: str | None = None
    """The field that the grammar came from."""


def sequence_of(request: ResponsesRequest, caller: Caller, history: Sequence[dict[str, Any]]) -> ResponseSequence:
    """`history` are the turns of the response before this one. Raises `RequestError`."""
    check_model(request.model, caller.info)
    refuse(request, NOT_YET)
    if check_num_choices(request.n) > 1:
        raise Unsupported("a response has one output: n is not supported", param="n")
    _check_include(request.include or ())
    items = items_of_input(request.input)
    turns = (*history, *turns_of_items(items))
    check_num_turns(len(turns), "input", caller.info)
    raw_tools = _tools(request.tools)
    tools = tool_set_of(raw_tools, _choice(request.tool_choice))
    prompt = _prompt(request, turns, tools)
    others = _format(request.text)
    grammar = grammar_of(request, others=others)
    plan = caller.output_parsing.plan(_wish(request, tools, prompt, grammar))
    return ResponseSequence(
        generation=_generation(request, prompt, plan, caller),
        plan=plan,
        items=items,
        turns=turns,
        echo=_echo(request, raw_tools),
        grammar_param="tools" if tools.is_required else others[0][0] if others else grammar.kind if grammar else None,
    )


def _generation(request: ResponsesRequest, prompt: ChatPrompt, plan: OutputPlan, caller: Caller) -> Generation:
    max_tokens = request.max_output_tokens
    if max_tokens is not None and max_tokens < 1:
        raise InvalidRequest("max_output_tokens must be at least 1", param="max_output_tokens")
    params = sampling_params_of(request, max_new_tokens=max_tokens, min_new_tokens=None, seed=request.seed)
    text = text_options_of(request)
    check_options(params, text, caller.info, names={"max_new_tokens": "max_output_tokens"})
    template = Generation(
        prompt=prompt,
        params=params,
        text=planned_text(text, plan),
        grammar=plan.grammar,
        logprobs=_logprobs(request),
        priority=request.priority or 0,
        label=caller.label,
    )
    (generation,) = choices_of(template, 1, request.seed, caller.draw_seed)
    return generation


def _wish(request: ResponsesRequest, tools: ToolSet, prompt: ChatPrompt, grammar: GrammarSpec | None) -> OutputWish:
    if grammar is not None and tools.is_required:
        raise InvalidRequest("a required tool call and another constraint exclude each other", param="tool_choice")
    return OutputWish(
        tools=tools.tools,
        tool_choice="required" if tools.is_required else "auto",
        parallel_tool_calls=request.parallel_tool_calls is not False and not tools.is_single,
        template_arguments={name: value for name, value in prompt.template_arguments.items() if name != "tools"},
        grammar=grammar,
    )


def _prompt(request: ResponsesRequest, turns: tuple[dict[str, Any], ...], tools: ToolSet) -> ChatPrompt:
    """Templates take one system turn at most, so the instructions are put before the conversation's own."""
    if request.instructions:
        first, rest = (turns[0], turns[1:]) if turns[0]["role"] == "system" else ({"content": ""}, turns)
        text = "\n\n".join(part for part in (request.instructions, first["content"]) if part)
        turns = ({"role": "system", "content": text}, *rest)
    arguments = effort_arguments(request.reasoning.effort if request.reasoning else None)
    shown: dict[str, Any] = {"tools": list(tools.tools)} if tools.tools else {}
    return ChatPrompt(turns=turns, template_arguments={**arguments, **shown})


def _tools(field: Unread) -> list[dict[str, Any]]:
    """In the form of chats, where a function has an object of its own."""
    if is_null(field):
        return []
    tools = decode_field(field, list[dict[str, Any]], "tools", MAX_TOOLS_BYTES)
    for position, tool in enumerate(tools):
        if tool.get("type") != "function":
            message = f"tools of type {str(tool.get('type'))[:40]!r} are not supported, only functions"
            raise Unsupported(message, param=f"tools[{position}].type")
    nested = [
        {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}} for tool in tools
    ]
    check_tools(nested)
    return nested


def _choice(choice: Literal["none", "auto", "required"] | NamedFunction | None) -> ToolChoice | None:
    if isinstance(choice, NamedFunction):
        return NamedTool(type="function", function=ChosenFunction(name=choice.name))
    return choice


def _format(config: TextConfig | None) -> list[Found]:
    param = "text.format"
    if config is None or is_null(config.format):
        return []
    wanted = decode_field(config.format, OutputFormat, param, MAX_SCHEMA_BYTES)
    if wanted.type == "json_object":
        return [(param, JSON_OBJECT)]
    if wanted.type == "text":
        return []
    schema = json_schema(wanted.schema, f"{param}.schema")
    if schema is None:
        raise InvalidRequest(f"{param}.schema is needed", param=f"{param}.schema")
    return [(param, schema)]


def _logprobs(request: ResponsesRequest) -> LogprobOptions | None:
    num_top = request.top_logprobs or 0
    check_num_top(num_top, "top_logprobs")
    return LogprobOptions(num_top=num_top) if num_top or WITH_LOGPROBS in (request.include or ()) else None


def _check_include(include: Sequence[str]) -> None:
    for position, name in enumerate(include):
        if name not in INCLUDABLE:
            raise Unsupported(f"{name[:100]!r} can not be included", param=f"include[{position}]")


def _echo(request: ResponsesRequest, tools: list[dict[str, Any]]) -> dict[str, Any]:
    config = request.text or TextConfig()
    return {
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": {} if is_null(request.metadata) else _object(request.metadata, "metadata", MAX_METADATA_BYTES),
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": {"effort": request.reasoning.effort if request.reasoning else None, "summary": None},
        "store": request.store is not False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {
            "format": {"type": "text"} if is_null(config.format) else _object(config.format, "text.format", MAX_SCHEMA_BYTES)
        },
        "tool_choice": "auto" if request.tool_choice is None else msgspec.to_builtins(request.tool_choice),
        "tools": [{"type": "function", "parameters": None, "strict": None, **tool["function"]} for tool in tools],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
    }


def _object(field: Unread, param: str, max_bytes: int) -> dict[str, Any]:
    value = decode_field(field, dict[str, Any], param, max_bytes)
    check_depth(value, param)
    return value
