"""What a backend is: the model's side of the language. A file in `frontend/backends/` adds one.

The interpreter calls the coroutines, all on the one event loop of the process; it calls them for many programs at once. A
backend keeps no state of a program: a `Prompt` is all there is to know. Cancelling a coroutine, or closing the iterator of
`stream` early, must end the work on the model's side. What goes wrong is raised as a `BackendError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from frontend.chat_template import ChatTemplate, Message, get_chat_template
from frontend.choices import ChoicesDecision, ChoicesSamplingMethod
from frontend.errors import Unsupported
from frontend.loop import shared_loop
from frontend.sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """All that a program has said so far, in both forms: as text and as a chat."""

    text: str
    """Everything, with the template's prefixes and suffixes."""
    messages: tuple[Message, ...] = ()
    """The turns that have ended. Do not change them."""
    role: str | None = None
    """Of the turn that is open; a chat model answers in an open assistant turn."""
    turn_text: str = ""
    """What the open turn has said so far."""
    images: tuple[str, ...] = ()
    """In base64, in the order in which they appear in `text`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that the model's side counted. `cost` is in US dollars, and None if nobody says."""

    num_requests: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    num_cached_tokens: int = 0
    """Those of the prompt that were not computed again."""
    cost: float | None = None

    def __add__(self, other: Usage) -> Usage:
        costs = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Usage(
            num_requests=self.num_requests + other.num_requests,
            num_prompt_tokens=self.num_prompt_tokens + other.num_prompt_tokens,
            num_completion_tokens=self.num_completion_tokens + other.num_completion_tokens,
            num_cached_tokens=self.num_cached_tokens + other.num_cached_tokens,
            cost=sum(costs) if costs else None,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model said: all of it, or the next piece of a stream.

    In a stream `meta_info` and `usage` are those of the whole request so far, and the last piece's count.
    """

    text: str
    meta_info: dict[str, Any] | None = field(default_factory=dict)
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Selection:
    decision: ChoicesDecision
    usage: Usage = Usage()


class Backend(ABC):
    """Base of all backends. Only `generate` and `stream` must be there."""

    is_chat_model = False
    """Whether it answers chats only: then a generation must begin an assistant turn."""

    def __init__(self, chat_template: ChatTemplate | None = None) -> None:
        self.chat_template = chat_template or get_chat_template("default")

    # -- what the interpreter calls, on the loop -------------------------------------------------------------------------

    @abstractmethod
    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """Everything in `sampling` but the constraints and log probabilities has a value."""

    @abstractmethod
    def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Completion, None]:
        """The same, piece by piece: an async generator."""

    async def select(self, prompt: Prompt, choices: list[str], temperature: float, method: ChoicesSamplingMethod) -> Selection:
        """Which of `choices` goes on from `prompt` best."""
        raise Unsupported(f"{type(self).__name__} can not select between choices")

    async def warm(self, prompt: Prompt) -> Usage:
        """Have the model's side compute and keep `prompt`, which several requests are about to begin with."""
        return Usage()

    async def flush(self) -> None:
        """Forget all that is kept of earlier prompts."""
        return None

    async def server_info(self) -> Any:
        return None

    async def close(self) -> None:
        """Give back connections. Requests after this open them again."""
        return None

    # -- what programs call, on any other thread -------------------------------------------------------------------------

    def get_model_name(self) -> str | None:
        return None

    def get_chat_template(self) -> ChatTemplate:
        return self.chat_template

    def cache_prefix(self, prefix: str) -> None:
        shared_loop().run(self.warm(Prompt(text=prefix)))

    def flush_cache(self) -> None:
        shared_loop().run(self.flush())

    def get_server_info(self) -> Any:
        return shared_loop().run(self.server_info())

    def shutdown(self) -> None:
        shared_loop().run(self.close())
