"""The backend that is Anthropic's API, or a server that speaks it: `Anthropic("claude-sonnet-4-5")`.

System turns go where the API wants them. A generation in the middle of an assistant turn goes on from the turn's text, with
the models that can; the API refuses it for the others.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from frontend.api_backend import ALWAYS_SENT, ApiBackend, items_of, meta_info_of, without_defaults
from frontend.api_errors import from_package, from_transport, transport_errors
from frontend.api_messages import chat_of, image_in, system_and_turns
from frontend.backend import Completion, Prompt, Usage
from frontend.chat_template import Message, get_chat_template
from frontend.errors import StreamBroken
from frontend.package_client import PackageClient
from frontend.packages import package
from frontend.retry import Retry
from frontend.sampling import Sampling

TIMEOUT_S = 600.0
"""The package's own default, which said like this also holds for long answers that are not streamed."""


class Anthropic(ApiBackend):
    """`retry` decides about further tries instead of the package, whose `max_retries` is understood too."""

    is_chat_model = True
    sent = ALWAYS_SENT | {"top_k", "json_schema"}

    def __init__(
        self, model_name: str, *, max_retries: int | None = None, retry: Retry | None = None, **client_args: Any
    ) -> None:
        """`client_args` are those of the package's client: api_key, base_url, timeout, default_headers, ...

        Raises `MissingPackage`.
        """
        self._anthropic = package("anthropic", extra="anthropic")
        arguments = {"timeout": TIMEOUT_S, **client_args, "max_retries": 0}
        client = PackageClient(lambda: self._anthropic.AsyncAnthropic(**arguments), lambda client: client.close)
        super().__init__(model_name, get_chat_template("claude"), client, retry or Retry.of(max_retries))

    async def _ask(self, prompt: Prompt, sampling: Sampling) -> Completion:
        answer = await self._client.open().messages.create(**self._fields(prompt, sampling))
        text = "".join(block.text for block in answer.content if block.type == "text")
        usage = usage_of(answer.usage.model_dump())
        return Completion(text, meta_info_of(usage, answer.id, answer.stop_reason), usage)

    async def _pieces(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Completion, None]:
        events = await self._client.open().messages.create(**self._fields(prompt, sampling), stream=True)
        counts: dict[str, Any] = {}
        request_id = stop_reason = None
        is_whole = False
        async with aclosing(items_of(events)) as items:
            async for event in items:
                text = ""
                if event.type == "message_start":
                    request_id, counts = event.message.id, event.message.usage.model_dump()
                elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                    text = event.delta.text
                elif event.type == "message_delta":
                    stop_reason = event.delta.stop_reason
                    counts |= event.usage.model_dump(exclude_none=True)
                is_whole = is_whole or event.type == "message_stop"
                usage = usage_of(counts)
                yield Completion(text, meta_info_of(usage, request_id, stop_reason), usage)
        if not is_whole:
            raise StreamBroken(f"the stream of {self.model_name} ended too early")

    def _fields(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        """The package has no arguments for some fields, according to its version: these go around it."""
        system, turns = system_and_turns(chat_of(prompt, self.chat_template.image_token))
        extra: dict[str, Any] = without_defaults(temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k)
        if sampling.json_schema is not None:
            extra["output_config"] = {"format": {"type": "json_schema", "schema": json.loads(sampling.json_schema)}}
        fields: dict[str, Any] = {"system": system} if system else {}
        if sampling.stops:
            fields["stop_sequences"] = list(sampling.stops)
        messages = [_message(turn) for turn in turns]
        return {
            "model": self.model_name,
            "max_tokens": sampling.max_new_tokens,
            "messages": messages,
            "extra_body": extra,
            **fields,
        }

    @contextmanager
    def _as_backend_errors(self) -> Iterator[None]:
        try:
            yield
        except self._anthropic.AnthropicError as error:
            raise from_package(self._anthropic, self.model_name, error) from error
        except transport_errors() as error:
            raise from_transport(self.model_name, error) from error


def usage_of(counts: dict[str, Any]) -> Usage:
    """The API counts the part of the prompt that it has kept, or keeps from now on, apart from the rest."""
    num_cached = counts.get("cache_read_input_tokens") or 0
    num_kept = counts.get("cache_creation_input_tokens") or 0
    return Usage(
        num_requests=1,
        num_prompt_tokens=(counts.get("input_tokens") or 0) + num_cached + num_kept,
        num_completion_tokens=counts.get("output_tokens") or 0,
        num_cached_tokens=num_cached,
    )


def _message(turn: Message) -> Message:
    content = turn["content"]
    return turn if isinstance(content, str) else {**turn, "content": [_block(part) for part in content]}


def _block(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    media_type, data = image_in(part)
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
