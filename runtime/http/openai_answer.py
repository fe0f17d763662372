"""What a chat or a completion does once its body is read: generate, and reply as a stream or whole.

`whole_chat` and `whole_completion` are for requests that come by another way than HTTP, as the lines of a batch do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from runtime.http.best_of import best_indices
from runtime.http.blame import blaming
from runtime.http.bundle import Bundle
from runtime.http.chat_format import ChatFormat
from runtime.http.completion_format import CompletionFormat
from runtime.http.detailed_completion_format import DetailedCompletionFormat
from runtime.http.openai_format import Head, OpenAiFormat
from runtime.http.parsed_chat_format import ParsedChatFormat
from runtime.http.parsed_output import ParsedOutput
from runtime.http.responses import json_response
from runtime.http.schema import chat, completion
from runtime.http.schema.chat import ChatCompletionRequest, ChatSequences
from runtime.http.schema.choices import Caller
from runtime.http.schema.completion import CompletionRequest, CompletionSequences
from runtime.http.schema.openai import OpenAiRequest
from runtime.http.service import SERVICE, Service
from runtime.http.stream import stream
from runtime.output_plan import OutputPlan


async def answer_chat(request: web.Request, body: ChatCompletionRequest) -> web.StreamResponse:
    """Raises `RequestError`."""
    service = request.app[SERVICE]
    caller = service.caller(request)
    if not body.stream:
        return json_response(await whole_chat(service, body, caller))
    sequences = chat.sequences_of(body, caller)
    reply = _chat_format(service, body, sequences)
    with _generating(service, sequences, reply, is_streaming=True) as bundle:
        return await stream(request, bundle, reply)


async def answer_completion(request: web.Request, body: CompletionRequest) -> web.StreamResponse:
    """Raises `RequestError`."""
    service = request.app[SERVICE]
    caller = service.caller(request)
    if not body.stream:
        return json_response(await whole_completion(service, body, caller))
    sequences = completion.sequences_of(body, caller)
    reply = _completion_format(service, body, sequences)
    with _generating(service, sequences, reply, is_streaming=True) as bundle:
        return await stream(request, bundle, reply)


async def whole_chat(service: Service, body: ChatCompletionRequest, caller: Caller) -> dict[str, Any]:
    """The reply that is not a stream. Raises `RequestError`."""
    sequences = chat.sequences_of(body, caller)
    reply = _chat_format(service, body, sequences)
    with _generating(service, sequences, reply) as bundle:
        return reply.whole(await bundle.all_rows())


async def whole_completion(service: Service, body: CompletionRequest, caller: Caller) -> dict[str, Any]:
    """The reply that is not a stream. Raises `RequestError`."""
    sequences = completion.sequences_of(body, caller)
    reply = _completion_format(service, body, sequences)
    with _generating(service, sequences, reply) as bundle:
        results = await bundle.all_rows()
    if sequences.best_of == sequences.n:
        return reply.whole(results)
    best = best_indices(results, sequences.n, sequences.best_of)
    choices = [{"index": place, **reply.choice(index, results[index])} for place, index in enumerate(best)]
    return reply.reply(choices, [rows[-1] for rows in results])


def new_output(service: Service, plan: OutputPlan, *, parallel_tool_calls: bool | None) -> ParsedOutput:
    """For one sequence. Ids are OpenAI's: `call_` and 24 digits."""
    parser = None if plan.make_parser is None else plan.make_parser()
    max_calls = 1 if parallel_tool_calls is False else None
    return ParsedOutput(parser, lambda: f"call_{service.new_hex(12)}", max_calls)


@contextmanager
def _generating(
    service: Service, sequences: ChatSequences | CompletionSequences, reply: OpenAiFormat, *, is_streaming: bool = False
) -> Iterator[Bundle]:
    with (
        blaming(sequences.grammar_param),
        service.open(sequences.generations, is_streaming=is_streaming, joins_rows=reply.joins_rows) as bundle,
    ):
        yield bundle


def _chat_format(service: Service, body: ChatCompletionRequest, sequences: ChatSequences) -> OpenAiFormat:
    head = _head(service, body, sequences.generations[0].label, body.n or 1)
    if sequences.plan.make_parser is None and not body.logprobs:
        return ChatFormat(head)
    return ParsedChatFormat(
        head,
        lambda: new_output(service, sequences.plan, parallel_tool_calls=body.parallel_tool_calls),
        has_logprobs=bool(body.logprobs),
        buffers_reasoning=body.stream_reasoning is False,
    )


def _completion_format(service: Service, body: CompletionRequest, sequences: CompletionSequences) -> OpenAiFormat:
    head = _head(service, body, sequences.generations[0].label, sequences.best_of)
    if sequences.echoes is None and not sequences.shows_logprobs:
        return CompletionFormat(head)
    return DetailedCompletionFormat(head, has_logprobs=sequences.shows_logprobs, echoes=sequences.echoes)


def _head(service: Service, body: OpenAiRequest, label: str, n: int) -> Head:
    options = body.stream_options
    return Head(
        id=label,
        created=int(service.clock.wall()),
        model=body.model or service.info.served_model_name,
        n=n,
        reports_cache=service.config.http.enable_cache_report,
        streams_usage=bool(options and options.include_usage),
        streams_running_usage=bool(options and options.continuous_usage_stats),
    )
