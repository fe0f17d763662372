"""Holds the first requests of a batch until what their prompts have in common has been computed once.

The first two prompts that arrive show what is common: what they begin with, whatever the program did to make them. Each
program either arrives or leaves, once; the gate opens when the prefix is there or nobody is left to compare with.
"""

from __future__ import annotations

import asyncio
import logging

from frontend.backend import Backend, Prompt
from frontend.errors import BackendError

log = logging.getLogger("frontend")

MIN_PREFIX_CHARS = 64


class PrefixGate:
    """For `num_programs` programs, of which at least two run at a time. Once open it stays so."""

    def __init__(self, backend: Backend, num_programs: int) -> None:
        self._backend = backend
        self._num_to_come = num_programs
        self._first: Prompt | None = None
        self._is_warming = False
        self._is_open = asyncio.Event()

    def ticket(self) -> Ticket:
        return Ticket(self)

    async def arrive(self, prompt: Prompt) -> None:
        self._num_to_come -= 1
        if self._first is None:
            self._first = prompt
            self._open_if_nobody_comes()
        elif not (self._is_warming or self._is_open.is_set()):
            self._is_warming = True
            try:
                await self._warm(self._first, prompt)
            finally:
                self._is_open.set()
        await self._is_open.wait()

    def leave(self) -> None:
        self._num_to_come -= 1
        self._open_if_nobody_comes()

    def _open_if_nobody_comes(self) -> None:
        if self._num_to_come < 1 and not self._is_warming:
            self._is_open.set()

    async def _warm(self, one: Prompt, other: Prompt) -> None:
        prefix = common_prefix(one.text, other.text)
        if len(prefix) < MIN_PREFIX_CHARS or one.images or other.images:
            return
        try:
            await self._backend.warm(Prompt(text=prefix))
        except BackendError as error:
            log.warning("the common prefix of the batch could not be computed first: %s", error)


class Ticket:
    """One program's way through the gate: only the first of its calls counts."""

    def __init__(self, gate: PrefixGate) -> None:
        self._gate = gate
        self._is_used = False

    async def arrive(self, prompt: Prompt) -> None:
        if not self._is_used:
            self._is_used = True
            await self._gate.arrive(prompt)

    def leave(self) -> None:
        if not self._is_used:
            self._is_used = True
            self._gate.leave()


def common_prefix(one: str, other: str) -> str:
    length = min(len(one), len(other))
    differing = (index for index in range(length) if one[index] != other[index])
    return one[: next(differing, length)]
