"""The state of a program: what the program's function gets as `s`, and what running it gives back.

Appending never waits. Reading a variable or the text waits until it is there, in whatever thread reads it. An async program
awaits instead: `await s.get_var_async(name)` for a variable, `await s` for everything.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

from frontend import ir
from frontend.backend import Usage
from frontend.chat_template import Message
from frontend.errors import Cancelled, ProgramError, UnknownVariable, VariableFailed
from frontend.group import ProgramStateGroup
from frontend.interpreter import Interpreter
from frontend.record import Record
from frontend.recorder import Recorder
from frontend.rendering import as_html, as_terminal
from frontend.text_stream import TextStream

Waiting = Callable[[], AbstractContextManager[None]]


class ProgramState(Recorder):
    """`body` is set when the program's function has returned; the function's own state has none.

    `waiting` is entered around each wait of a thread, by which a pool of threads learns that one is idle.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        *,
        waiting: Waiting = nullcontext,
        body: Future[None] | None = None,
        is_async: bool = False,
        executes_at_once: bool = False,
    ) -> None:
        super().__init__()
        self.ret_value: Any = None
        """What the program's function returned."""
        self._interpreter = interpreter
        self._waiting = waiting
        self._body = body
        self._is_async = is_async
        self._executes_at_once = executes_at_once

    @property
    def _record(self) -> Record:
        return self._interpreter.record

    def _append(self, expr: ir.Expr) -> None:
        self._interpreter.submit(expr)
        if self._executes_at_once and (failure := self.error()) is not None:
            raise failure

    # -- variables -------------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        return self.get_var(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self.set_var(name, value)

    def __contains__(self, name: object) -> bool:
        """Whether it has a value now; does not wait."""
        return name in self._record.variables

    def get_var(self, name: str) -> Any:
        """Waits for it. Raises `UnknownVariable`, or `VariableFailed` with the cause; both are `KeyError`s."""
        self._wait_for_variable(name)
        return self._value(name)

    async def get_var_async(self, name: str) -> Any:
        """As `get_var`, for async programs."""
        for future in self._until_known(name):
            await arrival(future)
        return self._value(name)

    def set_var(self, name: str, value: Any) -> None:
        self._record.variables[name] = value

    def get_meta_info(self, name: str) -> dict[str, Any] | None:
        """Waits for the variable; what the backend said about its generation or selection, if it is one."""
        self._wait_for_variable(name)
        self._value(name)
        return self._record.meta_info.get(name)

    def _wait_for_variable(self, name: str) -> None:
        for future in self._until_known(name):
            self._wait(future)

    def _until_known(self, name: str) -> Iterator[Future[None]]:
        """What to wait for, one after the other, before the variable's value is looked up."""
        if self._body is not None and not self._interpreter.is_streaming:
            yield self._body
        future = self._interpreter.until_set(name)
        if future is None and name not in self._record.variables:
            yield from self._until_finished()
            future = self._interpreter.until_set(name)
        if future is not None:
            yield future

    def _value(self, name: str) -> Any:
        failure = self._interpreter.failure
        if failure is not None and (name not in self._record.variables or self._interpreter.is_unset(name)):
            raise VariableFailed(name, failure) from failure
        if name not in self._record.variables:
            known = ", ".join(repr(known) for known in self._record.variables) or "none"
            raise UnknownVariable(name, f"the program sets no variable {name!r}; it has {known}")
        return self._record.variables[name]

    # -- results ---------------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """All that was said, the prompt included. Waits."""
        self.sync()
        return self._record.text

    def messages(self) -> list[Message]:
        """The turns that have ended, in OpenAI's form. Waits."""
        self.sync()
        return self._record.messages

    def error(self) -> BaseException | None:
        """What ended the program early, if something did. Waits."""
        self.sync()
        return self._interpreter.failure

    def finished_record(self) -> Record | None:
        """Everything the program said, or None if something ended it early. Waits."""
        return None if self.error() is not None else self._record

    def usage(self) -> Usage:
        """The tokens of all requests of the program, its forks included. Waits."""
        self.sync()
        return self._interpreter.total_usage()

    def sync(self) -> None:
        """Wait until all that was recorded is executed, and a streaming program has returned."""
        for future in self._until_finished():
            self._wait(future)

    def cancel(self) -> None:
        """End the program; a request that is running is aborted on the server. Reading a missing variable then raises."""
        self._interpreter.stop(Cancelled("the program was cancelled"))

    def __await__(self) -> Generator[Any, None, Self]:
        """Wait until the program has returned and everything is executed. If the wait is cancelled, so is the program."""
        return self._finished().__await__()

    async def _finished(self) -> Self:
        try:
            for future in self._until_finished():
                await arrival(future)
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self

    def _until_finished(self) -> Iterator[Future[None]]:
        if self._body is not None:
            yield self._body
        yield self._interpreter.settled()

    def _wait(self, future: Future[None]) -> None:
        if future.done():
            return
        if self._is_async:
            raise ProgramError("an async program must not wait: `await s`, or `await s.get_var_async(name)`, comes first")
        self._interpreter.loop.check_may_wait()
        with self._waiting():
            future.result()

    # -- streams ---------------------------------------------------------------------------------------------------------

    def text_iter(self, var_name: str | None = None) -> Iterator[str]:
        """New text as it comes, or that of one variable. Not streaming: all of it at once. Raises what ended the program."""
        if not self._interpreter.is_streaming:
            yield self.text() if var_name is None else self.get_var(var_name)
            return
        stream, changed, is_complete = TextStream(self._interpreter, var_name), threading.Event(), False
        with self._interpreter.calling(changed.set):
            while not is_complete:
                changed.clear()
                is_complete = stream.is_complete
                piece, _ = stream.take()
                if piece:
                    yield piece
                if not is_complete:
                    changed.wait()
        self._check_end(var_name)

    async def text_async_iter(self, var_name: str | None = None, return_meta_data: bool = False) -> AsyncIterator[Any]:
        """As `text_iter`, on the event loop it is used on. With `return_meta_data` pairs of a piece and its meta info."""
        if not self._interpreter.is_streaming:
            await self
            value = self._record.text if var_name is None else self._value(var_name)
            yield (value, self._record.meta_info.get(var_name)) if return_meta_data else value
            return
        stream, changed, is_complete = TextStream(self._interpreter, var_name), asyncio.Event(), False
        loop = asyncio.get_running_loop()
        with self._interpreter.calling(lambda: loop.call_soon_threadsafe(changed.set)):
            while not is_complete:
                changed.clear()
                is_complete = stream.is_complete
                piece, meta_info = stream.take()
                if piece:
                    yield (piece, meta_info) if return_meta_data else piece
                if not is_complete:
                    await changed.wait()
        self._check_end(var_name)

    def __aiter__(self) -> AsyncIterator[str]:
        return self.text_async_iter()

    def _check_end(self, name: str | None) -> None:
        if name is not None:
            self._value(name)
        elif self._interpreter.failure is not None:
            raise self._interpreter.failure

    # -- forks -----------------------------------------------------------------------------------------------------------

    def fork(self, size: int = 1, position_ids_offset: list[int] | None = None) -> ProgramStateGroup:
        """`size` states that go on from here on their own. Their common prefix is computed once, before they go on.

        `position_ids_offset` is accepted for SGLang's sake and has no effect there either.
        """
        if size < 1:
            raise ProgramError(f"fork needs a size of at least 1, not {size}")
        return ProgramStateGroup([self._with(child) for child in self._interpreter.fork(size)], self)

    @contextmanager
    def copy(self, position_ids_offset: list[int] | None = None) -> Iterator[ProgramState]:
        """A fork of one, joined at the end of the block."""
        group = self.fork(1, position_ids_offset)
        try:
            yield group[0]
        finally:
            group.join()

    def _with(self, interpreter: Interpreter) -> ProgramState:
        return ProgramState(
            interpreter, waiting=self._waiting, is_async=self._is_async, executes_at_once=self._executes_at_once
        )

    # -- showing ---------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        if not self._is_async:
            self.sync()
        return f"ProgramState({self._record.text})"

    def _repr_html_(self) -> str:
        """For notebooks: the roles, and what the model said."""
        self.sync()
        return as_html(self._record)

    def show(self) -> None:
        """Write it to the terminal: the roles, and what the model said in colour."""
        self.sync()
        sys.stdout.write(as_terminal(self._record) + "\n")


async def arrival(future: Future[None]) -> None:
    """Wait for it without taking it away from others who wait for it, should this wait be cancelled."""
    if not future.done():
        await asyncio.shield(asyncio.wrap_future(future))
