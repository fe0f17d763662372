"""Base of the backends for foreign APIs: tries again, counts tokens, and says what an API can not do.

A subclass makes one request. An answer that breaks before any of its text was seen is asked for again; after that a stream
raises `StreamBroken`, because what a program has seen can not be taken back.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from frontend.backend import Backend, Completion, Prompt, Usage
from frontend.chat_template import ChatTemplate
from frontend.errors import StreamBroken, Unreachable, Unsupported
from frontend.package_client import PackageClient
from frontend.retry import Retry
from frontend.sampling import DEFAULTS, Sampling

ALWAYS_SENT = frozenset({"max_new_tokens", "stop", "temperature", "top_p"})
NEVER_DROPPED = ("ebnf", "repetition_penalty", "sampling_seed")
"""SGLang's backends warn of what they leave out. These are not SGLang's, so no program of its relies on that."""

LENGTH_WORDS = ("length", "max_tokens", "MAX_TOKENS")
"""OpenAI's, Anthropic's and Gemini's for an answer that was cut off."""


@dataclass
class TokenUsage:
    """Of all requests of a backend since it was made or `reset`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, usage: Usage) -> None:
        self.prompt_tokens += usage.num_prompt_tokens
        self.completion_tokens += usage.num_completion_tokens

    def reset(self) -> None:
        self.prompt_tokens = self.completion_tokens = 0


class ApiBackend(Backend):
    """`client` is the package's. Another `retry` than the default says how often and when to try again."""

    sent: frozenset[str] = ALWAYS_SENT
    """The fields of `Sampling` that the API knows."""

    def __init__(self, model_name: str, chat_template: ChatTemplate, client: PackageClient, retry: Retry | None) -> None:
        super().__init__(chat_template)
        self.model_name = model_name
        self.token_usage = TokenUsage()
        self._client = client
        self._retry = retry or Retry()
        with self._as_backend_errors():
            client.open()

    # -- what a subclass says --------------------------------------------------------------------------------------------

    @abstractmethod
    async def _ask(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """One request."""

    @abstractmethod
    def _pieces(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Completion, None]:
        """One request whose answer is streamed. Raises `StreamBroken` if it ends before the API says so."""

    @abstractmethod
    def _as_backend_errors(self) -> AbstractContextManager[None]:
        """Inside, what the client package raises becomes a `BackendError`."""

    # -- what the interpreter calls --------------------------------------------------------------------------------------

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        self.check(sampling)
        completion = await self._retry.call(partial(self._ask_once, prompt, sampling))
        self.token_usage.add(completion.usage)
        return completion

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Completion, None]:
        self.check(sampling)
        piece, pieces = await self._retry.call(partial(self._begun, prompt, sampling))
        try:
            async with aclosing(pieces):
                yield piece
                while (following := await self._next(pieces)) is not None:
                    piece = following
                    yield piece
        except Unreachable as error:
            raise StreamBroken(str(error)) from error
        finally:
            self.token_usage.add(piece.usage)

    async def close(self) -> None:
        await self._client.close()

    def get_model_name(self) -> str:
        return self.model_name

    def check(self, sampling: Sampling) -> None:
        """Warns of values that the API has no place for. Raises `Unsupported` for those that must not be left out."""
        for name in unusual(sampling) - self.sent:
            message = f"{type(self).__name__} can not use {name}={vars_of(sampling)[name]!r}"
            if name in NEVER_DROPPED:
                raise Unsupported(message)
            warnings.warn(f"{message}: it is left out", stacklevel=2)

    async def _ask_once(self, prompt: Prompt, sampling: Sampling) -> Completion:
        with self._as_backend_errors():
            return await self._ask(prompt, sampling)

    async def _begun(self, prompt: Prompt, sampling: Sampling) -> tuple[Completion, AsyncGenerator[Completion, None]]:
        """A stream and its first piece with text in it; the last piece of one without any."""
        pieces = self._pieces(prompt, sampling)
        piece = Completion("")
        async with AsyncExitStack() as failing:
            failing.push_async_callback(pieces.aclose)
            try:
                while not piece.text and (following := await self._next(pieces)) is not None:
                    piece = following
            except StreamBroken as error:
                raise Unreachable(str(error)) from error
            failing.pop_all()
        return piece, pieces

    async def _next(self, pieces: AsyncGenerator[Completion, None]) -> Completion | None:
        with self._as_backend_errors():
            return await anext(pieces, None)


def vars_of(sampling: Sampling) -> dict[str, Any]:
    return {field.name: getattr(sampling, field.name) for field in fields(sampling)}


def unusual(sampling: Sampling) -> set[str]:
    """The names of what is said and is not the default."""
    defaults = vars_of(DEFAULTS)
    return {name for name, value in vars_of(sampling).items() if value not in (None, False, defaults[name])}


def without_defaults(**values: Any) -> dict[str, Any]:
    """Those of `values`, by their names in `Sampling`, that are not the default: an API may refuse to be told them."""
    defaults = vars_of(DEFAULTS)
    return {name: value for name, value in values.items() if value not in (None, defaults[name])}


def meta_info_of(usage: Usage, request_id: Any, finish_reason: Any) -> dict[str, Any]:
    """In the form of `/generate`. `finish_reason` is the API's own word for it."""
    kind = "length" if finish_reason in LENGTH_WORDS else "stop"
    return {
        "id": request_id,
        "finish_reason": None if finish_reason is None else {"type": kind, "reason": str(finish_reason)},
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "cached_tokens": usage.num_cached_tokens,
    }


async def items_of(stream: Any) -> AsyncGenerator[Any, None]:
    """Of a package's stream. Closing this closes the stream, and so ends the work on the other side."""
    async with stream:
        async for item in stream:
            yield item
