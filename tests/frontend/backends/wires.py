"""The wire formats of the APIs: each makes a backend for a local server, and that server's answers."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

import pytest

import frontend as sgl
from tests.frontend.backends.api_server import Answer

OF_THE_PACKAGES = [
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the .* attribute on the instance:DeprecationWarning"),
]
"""Warnings of what the packages do themselves."""
NUM_PROMPT_TOKENS, NUM_COMPLETION_TOKENS, NUM_CACHED_TOKENS = 11, 3, 4
OPENAI_USAGE = {
    "prompt_tokens": NUM_PROMPT_TOKENS,
    "completion_tokens": NUM_COMPLETION_TOKENS,
    "total_tokens": NUM_PROMPT_TOKENS + NUM_COMPLETION_TOKENS,
    "prompt_tokens_details": {"cached_tokens": NUM_CACHED_TOKENS},
}


class Wire(ABC):
    @abstractmethod
    def backend(self, url: str, **options: Any) -> Any: ...

    @abstractmethod
    def whole(self, text: str) -> Any:
        """The body of an answer."""

    @abstractmethod
    def opening(self) -> list[str]:
        """The events before any text."""

    @abstractmethod
    def event(self, piece: str) -> str: ...

    @abstractmethod
    def closing(self) -> list[str]:
        """The events after all text."""

    @abstractmethod
    def error(self, status: int, message: str) -> Any:
        """The body of a refusal."""

    @abstractmethod
    def error_event(self, message: str) -> str:
        """A server's failure in a stream."""

    def answer(self, text: str) -> Answer:
        return Answer(self.whole(text))

    def stream(self, *pieces: str) -> Answer:
        return Answer(events=[*self.opening(), *map(self.event, pieces), *self.closing()])

    def refusal(self, status: int, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Answer(self.error(status, "not now"), status=status, headers=named)


def data(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


class ChatWire(Wire):
    """OpenAI's chats."""

    def backend(self, url: str, **options: Any) -> Any:
        return sgl.OpenAI("gpt-4o-mini", base_url=url + "/v1", api_key="key", **options)

    def whole(self, text: str) -> Any:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        base = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
        return {**base, "choices": [choice], "usage": OPENAI_USAGE}

    def opening(self) -> list[str]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def event(self, piece: str) -> str:
        return self._chunk({"content": piece})

    def closing(self) -> list[str]:
        return [self._chunk({}, "stop"), data({**self._base(), "choices": [], "usage": OPENAI_USAGE}), "data: [DONE]\n\n"]

    def error(self, status: int, message: str) -> Any:
        return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}

    def error_event(self, message: str) -> str:
        return data(self.error(500, message))

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> str:
        return data({**self._base(), "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})

    def _base(self) -> dict[str, Any]:
        return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}


class CompletionWire(ChatWire):
    """OpenAI's completions."""

    def backend(self, url: str, **options: Any) -> Any:
        return sgl.OpenAI("gpt-3.5-turbo-instruct", base_url=url + "/v1", api_key="key", **options)

    def whole(self, text: str) -> Any:
        return {**self._base(), "choices": [{"index": 0, "text": text, "finish_reason": "stop"}], "usage": OPENAI_USAGE}

    def opening(self) -> list[str]:
        return [self._chunk({"content": ""})]

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "text": delta.get("content", ""), "finish_reason": finish_reason}
        return data({**self._base(), "choices": [choice]})

    def _base(self) -> dict[str, Any]:
        return {"id": "x", "object": "text_completion", "created": 1, "model": "m"}


class LiteLLMWire(ChatWire):
    """OpenAI's chats, by LiteLLM."""

    def backend(self, url: str, **options: Any) -> Any:
        return sgl.LiteLLM("openai/gpt-4o-mini", base_url=url + "/v1", api_key="key", **options)


class AnthropicWire(Wire):
    def backend(self, url: str, **options: Any) -> Any:
        return sgl.Anthropic("claude-x", base_url=url, api_key="key", **options)

    def whole(self, text: str) -> Any:
        usage = {**self._input(), "output_tokens": NUM_COMPLETION_TOKENS}
        content = [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": text}]
        return {**self._base(), "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}

    def opening(self) -> list[str]:
        message = {**self._base(), "content": [], "stop_reason": None, "usage": {**self._input(), "output_tokens": 1}}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return [self._event({"type": "message_start", "message": message}), self._event({"type": "ping"}), self._event(block)]

    def event(self, piece: str) -> str:
        return self._event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}})

    def closing(self) -> list[str]:
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        usage = {"output_tokens": NUM_COMPLETION_TOKENS}
        return [
            self._event({"type": "content_block_stop", "index": 0}),
            self._event({"type": "message_delta", "delta": delta, "usage": usage}),
            self._event({"type": "message_stop"}),
        ]

    def error(self, status: int, message: str) -> Any:
        return {"type": "error", "error": {"type": "api_error", "message": message}}

    def error_event(self, message: str) -> str:
        return self._event(self.error(500, message))

    def _event(self, value: dict[str, Any]) -> str:
        return f"event: {value['type']}\n{data(value)}"

    def _base(self) -> dict[str, Any]:
        return {"id": "x", "type": "message", "role": "assistant", "model": "claude-x"}

    def _input(self) -> dict[str, int]:
        kept = {"cache_read_input_tokens": NUM_CACHED_TOKENS, "cache_creation_input_tokens": 0}
        return {"input_tokens": NUM_PROMPT_TOKENS - NUM_CACHED_TOKENS, **kept}


class GeminiWire(Wire):
    def backend(self, url: str, **options: Any) -> Any:
        return sgl.Gemini("gemini-x", base_url=url, api_key="key", **options)

    def whole(self, text: str) -> Any:
        return self._answer([{"text": "hm", "thought": True}, {"text": text}], "STOP")

    def opening(self) -> list[str]:
        return []

    def event(self, piece: str) -> str:
        return data(self._answer([{"text": piece}], None))

    def closing(self) -> list[str]:
        return [data(self._answer([{"text": ""}], "STOP"))]

    def error(self, status: int, message: str) -> Any:
        return {"error": {"code": status, "message": message, "status": "UNAVAILABLE", "details": []}}

    def error_event(self, message: str) -> str:
        return data(self.error(500, message))

    def _answer(self, parts: list[Any], finish_reason: str | None) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
        if finish_reason:
            candidate["finishReason"] = finish_reason
        usage = {
            "promptTokenCount": NUM_PROMPT_TOKENS,
            "candidatesTokenCount": NUM_COMPLETION_TOKENS - 1,
            "thoughtsTokenCount": 1,
            "cachedContentTokenCount": NUM_CACHED_TOKENS,
        }
        return {"candidates": [candidate], "usageMetadata": usage, "responseId": "x", "modelVersion": "gemini-x"}


class VertexWire(GeminiWire):
    def backend(self, url: str, **options: Any) -> Any:
        place = {"project": "project", "location": "here", "credentials": token()}
        return sgl.VertexAI("gemini-x", base_url=url, **place, **options)


def token() -> Any:
    """Credentials that are valid and ask nobody."""
    from google.oauth2.credentials import Credentials

    return Credentials("token")


WIRES = {
    "OpenAI chat": ChatWire(),
    "OpenAI completion": CompletionWire(),
    "Anthropic": AnthropicWire(),
    "Gemini": GeminiWire(),
    "VertexAI": VertexWire(),
    "LiteLLM": LiteLLMWire(),
}
