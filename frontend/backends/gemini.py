"""The backend that is Google's Gemini API: `Gemini("gemini-2.5-flash")`. `VertexAI` is the same models in Google's cloud."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from frontend.api_backend import ALWAYS_SENT, ApiBackend, meta_info_of, without_defaults
from frontend.api_errors import from_status, from_transport, retry_after_s, transport_errors
from frontend.api_messages import chat_of, image_in, system_and_turns
from frontend.backend import Completion, Prompt, Usage
from frontend.chat_template import Message, get_chat_template
from frontend.errors import BackendError, StreamBroken
from frontend.package_client import PackageClient
from frontend.packages import package
from frontend.retry import Retry
from frontend.sampling import Sampling

RETRY_INFO = "google.rpc.RetryInfo"


class Gemini(ApiBackend):
    """`retry` decides about further tries instead of the package."""

    is_chat_model = True
    sent = ALWAYS_SENT | {"top_k", "frequency_penalty", "presence_penalty", "sampling_seed", "json_schema"}

    def __init__(
        self,
        model_name: str,
        safety_settings: Any = None,
        *,
        base_url: str | None = None,
        timeout: float | None = None,
        http_options: dict[str, Any] | None = None,
        retry: Retry | None = None,
        **client_args: Any,
    ) -> None:
        """`timeout` is in seconds. `http_options` and `client_args` (api_key, ...) are those of the package's client.

        Raises `MissingPackage`, and `BackendError` for a missing key.
        """
        genai = package("google.genai", extra="google-genai")
        self._errors = package("google.genai.errors", extra="google-genai")
        options: dict[str, Any] = {**(http_options or {}), "retry_options": {"attempts": 1}}
        if base_url is not None:
            options["base_url"] = base_url
        if timeout is not None:
            options["timeout"] = round(timeout * 1000)
        client = PackageClient(lambda: genai.Client(**client_args, http_options=options), _closer_of)
        super().__init__(model_name, get_chat_template("default"), client, retry)
        self._safety_settings = safety_settings

    async def _ask(self, prompt: Prompt, sampling: Sampling) -> Completion:
        answer = await self._client.open().aio.models.generate_content(**self._fields(prompt, sampling))
        return _completion_of(answer, _finish_reason_of(answer))

    async def _pieces(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Completion, None]:
        chunks = await self._client.open().aio.models.generate_content_stream(**self._fields(prompt, sampling))
        finish_reason = None
        async with aclosing(chunks):
            async for chunk in chunks:
                finish_reason = _finish_reason_of(chunk) or finish_reason
                yield _completion_of(chunk, finish_reason)
        if finish_reason is None:
            raise StreamBroken(f"the stream of {self.model_name} ended too early")

    def _fields(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        system, turns = system_and_turns(chat_of(prompt, self.chat_template.image_token))
        config: dict[str, Any] = {
            "max_output_tokens": sampling.max_new_tokens,
            "stop_sequences": list(sampling.stops) or None,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.sampling_seed,
            "system_instruction": system or None,
            "safety_settings": self._safety_settings,
            **without_defaults(
                top_k=sampling.top_k,
                frequency_penalty=sampling.frequency_penalty,
                presence_penalty=sampling.presence_penalty,
            ),
        }
        if sampling.json_schema is not None:
            config["response_mime_type"] = "application/json"
            config["response_json_schema"] = json.loads(sampling.json_schema)
        return {"model": self.model_name, "contents": [_content(turn) for turn in turns], "config": config}

    @contextmanager
    def _as_backend_errors(self) -> Iterator[None]:
        try:
            yield
        except self._errors.APIError as error:
            raise _refusal(self.model_name, error) from error
        except transport_errors() as error:
            raise from_transport(self.model_name, error) from error
        except ValueError as error:  # missing keys, and answers that are not JSON
            raise BackendError(f"{self.model_name}: {error}") from error


def usage_of(counted: Any) -> Usage:
    if counted is None:
        return Usage(num_requests=1)
    return Usage(
        num_requests=1,
        num_prompt_tokens=counted.prompt_token_count or 0,
        num_completion_tokens=(counted.candidates_token_count or 0) + (counted.thoughts_token_count or 0),
        num_cached_tokens=counted.cached_content_token_count or 0,
    )


def _completion_of(answer: Any, finish_reason: Any) -> Completion:
    """Raises `BackendError` if the prompt was refused: then there is no candidate."""
    if not answer.candidates and answer.prompt_feedback and answer.prompt_feedback.block_reason:
        raise BackendError(f"the prompt was refused: {answer.prompt_feedback.block_reason.value}")
    content = answer.candidates[0].content if answer.candidates else None
    parts = (content.parts if content else None) or ()
    text = "".join(part.text for part in parts if part.text and not part.thought)
    usage = usage_of(answer.usage_metadata)
    return Completion(text, meta_info_of(usage, answer.response_id, finish_reason), usage)


def _finish_reason_of(answer: Any) -> Any:
    reason = answer.candidates[0].finish_reason if answer.candidates else None
    return None if reason is None else reason.value


def _content(turn: Message) -> dict[str, Any]:
    content = turn["content"]
    parts = [{"text": content}] if isinstance(content, str) else [_part(part) for part in content]
    return {"role": "model" if turn["role"] == "assistant" else "user", "parts": parts}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"text": part["text"]}
    media_type, data = image_in(part)
    return {"inline_data": {"mime_type": media_type, "data": data}}


def _refusal(name: str, error: Any) -> BackendError:
    headers = error.response.headers if error.response is not None else {}
    pause_s = _retry_delay_s(error.details)
    return from_status(f"{name}: {error}", error.code or 500, retry_after_s(headers) if pause_s is None else pause_s)


def _retry_delay_s(details: Any) -> float | None:
    """From a body like `{"error": {"details": [{"@type": "...RetryInfo", "retryDelay": "34s"}]}}`."""
    error = details.get("error", details) if isinstance(details, dict) else {}
    infos = error.get("details") if isinstance(error, dict) else None
    for info in infos or ():
        if isinstance(info, dict) and str(info.get("@type", "")).endswith(RETRY_INFO):
            return retry_after_s({"retry-after": str(info.get("retryDelay", "")).removesuffix("s")})
    return None


def _closer_of(client: Any) -> Any:
    async def close() -> None:
        await client.aio.aclose()
        client.close()

    return close
