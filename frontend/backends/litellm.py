"""The backend that is LiteLLM, which speaks to the APIs of many companies: `LiteLLM("mistral/mistral-small-latest")`.

It knows prices, so a program's usage has a cost. Its table of them comes from the package and not from the network.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

from frontend.api_backend import ALWAYS_SENT, ApiBackend, meta_info_of, without_defaults
from frontend.api_errors import from_package, from_transport, retry_after_s, transport_errors
from frontend.api_messages import chat_of
from frontend.backend import Completion, Prompt, Usage
from frontend.backends.openai import response_format, usage_of
from frontend.chat_template import ChatTemplate, get_chat_template_by_model_path
from frontend.errors import BackendError, StreamBroken
from frontend.package_client import PackageClient
from frontend.packages import package
from frontend.retry import Retry
from frontend.sampling import Sampling

LOCAL_PRICES = "LITELLM_LOCAL_MODEL_COST_MAP"


class LiteLLM(ApiBackend):
    """`retry` decides about further tries instead of the package; `max_retries` is a short form of it."""

    is_chat_model = True
    sent = ALWAYS_SENT | {"frequency_penalty", "presence_penalty", "sampling_seed", "json_schema"}

    def __init__(
        self,
        model_name: str,
        chat_template: ChatTemplate | None = None,
        api_key: str | None = None,
        organization: str | None = None,
        base_url: str | None = None,
        timeout: float | None = 600,
        max_retries: int | None = None,
        default_headers: Mapping[str, str] | None = None,
        *,
        retry: Retry | None = None,
    ) -> None:
        """Without a key the variable of the model's company is used, such as MISTRAL_API_KEY. Raises `MissingPackage`."""
        self._litellm = _litellm()
        self._openai = package("openai", extra="litellm")
        client = PackageClient(lambda: self._litellm, lambda client: _close_nothing)
        template = chat_template or get_chat_template_by_model_path(model_name)
        super().__init__(model_name, template, client, retry or Retry.of(max_retries))
        given = {
            "api_key": api_key,
            "organization": organization,
            "base_url": base_url,
            "timeout": timeout,
            "extra_headers": dict(default_headers) if default_headers else None,
        }
        self._client_params = {name: value for name, value in given.items() if value is not None}

    async def _ask(self, prompt: Prompt, sampling: Sampling) -> Completion:
        answer = await self._litellm.acompletion(**self._fields(prompt, sampling))
        usage = replace(usage_of(answer.usage), cost=answer._hidden_params.get("response_cost"))
        choice = answer.choices[0]
        return Completion(choice.message.content or "", meta_info_of(usage, answer.id, choice.finish_reason), usage)

    async def _pieces(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Completion, None]:
        fields = self._fields(prompt, sampling)
        chunks = await self._litellm.acompletion(**fields, stream=True, stream_options={"include_usage": True})
        usage, finish_reason = Usage(num_requests=1), None
        async with aclosing(_items(chunks)) as items:
            async for chunk in items:
                counted = chunk.get("usage")
                usage = replace(usage_of(counted), cost=counted.get("cost")) if counted else usage
                choice = chunk.choices[0] if chunk.choices else None
                finish_reason = (choice and choice.finish_reason) or finish_reason
                text = (choice.delta.content if choice else None) or ""
                yield Completion(text, meta_info_of(usage, chunk.id, finish_reason), usage)
        # The package says "stop" at the end of every stream; what the server said itself is only here.
        if chunks.received_finish_reason is None and chunks.intermittent_finish_reason is None:
            raise StreamBroken(f"the stream of {self.model_name} ended too early")

    def _fields(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        """Penalties only if they are any: many companies' APIs have none."""
        fields = without_defaults(
            stop=list(sampling.stops) or None,
            top_p=sampling.top_p,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
        )
        if sampling.sampling_seed is not None:
            fields["seed"] = sampling.sampling_seed
        if sampling.json_schema is not None:
            fields["response_format"] = response_format(sampling)
        return {
            "model": self.model_name,
            "messages": chat_of(prompt, self.chat_template.image_token),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            **fields,
            **self._client_params,
            "max_retries": 0,
            "num_retries": 0,
        }

    @contextmanager
    def _as_backend_errors(self) -> Iterator[None]:
        try:
            yield
        except self._openai.OpenAIError as error:
            raise self._failure(error) from error
        except transport_errors() as error:
            raise from_transport(self.model_name, error) from error

    def _failure(self, error: Any) -> BackendError:
        """The package hides broken connections and headers behind errors of its own; they are among the causes."""
        causes = list(_causes_of(error))
        broken = next((cause for cause in causes if isinstance(cause, transport_errors())), None)
        if broken is not None:
            return from_transport(self.model_name, broken)
        failure = from_package(self._openai, self.model_name, error)
        pauses = (retry_after_s(cause.response.headers) for cause in causes if isinstance(cause, self._openai.APIStatusError))
        failure.retry_after_s = next((pause for pause in pauses if pause is not None), None)
        return failure


def _causes_of(error: BaseException) -> Iterator[BaseException]:
    """`error`, what it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _litellm() -> Any:
    """The package, which fetches its table of prices when it is imported unless it is told not to."""
    os.environ.setdefault(LOCAL_PRICES, "True")
    return package("litellm", extra="litellm")


async def _items(stream: Any) -> AsyncGenerator[Any, None]:
    """Closing this closes the stream, and so ends the work on the other side."""
    try:
        async for item in stream:
            yield item
    finally:
        await stream.aclose()


async def _close_nothing() -> None:
    """The package's connections are its own, for all who use it in this process."""
