"""Base of the backends that speak `/generate`: our server, or SGLang's, and our engine in this process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from frontend.backend import Backend, Completion, Prompt, Selection, Usage
from frontend.choices import ChoicesSamplingMethod
from frontend.native import completion_of, generation_body, usage_of, warming_body
from frontend.sampling import Sampling
from frontend.scoring import select


class NativeBackend(Backend):
    """A subclass says how a body gets there."""

    @abstractmethod
    async def _generate(self, body: dict[str, Any]) -> Any:
        """The answer, or a list of them if the body has a list of prompts."""

    @abstractmethod
    def _events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The answers of a stream, each with all text so far."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        return completion_of(await self._generate(generation_body(prompt, sampling)))

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Completion, None]:
        num_chars = 0
        async with aclosing(self._events(generation_body(prompt, sampling, is_streaming=True))) as events:
            async for event in events:
                piece = completion_of(event, num_chars)
                num_chars += len(piece.text)
                yield piece

    async def select(self, prompt: Prompt, choices: list[str], temperature: float, method: ChoicesSamplingMethod) -> Selection:
        return await select(self._generate, prompt, choices, temperature, method)

    async def warm(self, prompt: Prompt) -> Usage:
        return usage_of(await self._generate(warming_body(prompt)))
