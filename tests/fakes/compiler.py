"""Compiles grammars on the time of an event loop, which may be virtual. What the grammars are does not matter, but for one.

What it is told to drop is gone at once; a real compiler may take a moment, and may answer even so.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection

from runtime.errors import Unavailable, Unsupported
from runtime.messages import GrammarCompiled, Message
from runtime.params import GrammarSpec

BROKEN_GRAMMAR = "("
"""Can not be compiled."""
REFUSAL = Unsupported("this grammar can not be compiled", param="regex").failure
KILLED = Unavailable("the grammar compiler was ended from outside", code="compiler_killed").failure


class FakeCompiler:
    """Implements `GrammarCompiler`. The grammars submitted as the `faults`-th fail, though nothing is wrong with them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, compile_s: float, num_kept: int, faults: Collection[int] = ()) -> None:
        self.under_way: dict[str, asyncio.TimerHandle] = {}
        self.failed_at_s: dict[str, list[float]] = {}
        """When a grammar failed with which nothing is wrong."""
        self._loop = loop
        self._compile_s = compile_s
        self._num_kept = num_kept
        self._faults = faults
        self._kept: OrderedDict[str, None] = OrderedDict()
        self._num_submitted = 0
        self._tell: Callable[[Message], None] = lambda message: None

    def start(self, tell: Callable[[Message], None]) -> None:
        self._tell = tell
        for key in list(self.under_way):
            self.drop(key)

    def submit(self, key: str, grammar: GrammarSpec) -> None:
        assert key not in self.under_way, f"{key} is compiled twice at a time"
        self._num_submitted += 1
        is_fault = self._num_submitted in self._faults
        self.under_way[key] = self._loop.call_later(self._compile_s, self._answer, key, grammar, is_fault)

    def has(self, key: str) -> bool:
        return key in self._kept

    def drop(self, key: str) -> None:
        if key in self.under_way:
            self.under_way.pop(key).cancel()

    async def stop(self) -> None:
        for key in list(self.under_way):
            self.drop(key)

    def _answer(self, key: str, grammar: GrammarSpec, is_fault: bool) -> None:
        del self.under_way[key]
        if is_fault:
            self.failed_at_s.setdefault(key, []).append(self._loop.time())
            self._tell(GrammarCompiled(key=key, failure=KILLED, is_lasting=False))
        elif grammar.source == BROKEN_GRAMMAR:
            self._tell(GrammarCompiled(key=key, failure=REFUSAL))
        else:
            self._keep(key)
            self._tell(GrammarCompiled(key=key))

    def _keep(self, key: str) -> None:
        self._kept[key] = None
        if len(self._kept) > self._num_kept:
            self._kept.popitem(last=False)
