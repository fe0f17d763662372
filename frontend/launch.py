"""Starts a program: on the thread that calls `run`, on a thread of its own to stream, or as a task of the caller's loop.

However its function ends, the interpreter learns of it: a function that raises ends the program, and what it has asked for
is aborted.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from frontend.backend import Backend, Prompt
from frontend.interpreter import Interpreter
from frontend.loop import shared_loop
from frontend.sampling import Sampling
from frontend.settings import global_config
from frontend.state import ProgramState

if TYPE_CHECKING:
    from frontend.function import Function


@dataclass(frozen=True, kw_only=True)
class Call:
    """A program with its arguments, and all that `run` was told."""

    function: Function
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any]
    sampling: Sampling
    backend: Backend
    is_streaming: bool = False
    executes_at_once: bool = False

    def interpreter(self, before_first: Callable[[Prompt], Awaitable[None]] | None = None) -> Interpreter:
        return Interpreter(
            self.backend,
            self.sampling,
            shared_loop(),
            is_streaming=self.is_streaming,
            num_api_spec_tokens=self.function.num_api_spec_tokens,
            before_first=before_first,
        )

    def on(self, state: ProgramState) -> Any:
        """Call the program's function. What it returns is a coroutine if the program is async."""
        return self.function.func(state, *self.args, **self.kwargs)


def run(call: Call) -> ProgramState:
    """Returns when the function has, which may be before what it recorded is executed. Raises what the function raises."""
    interpreter = call.interpreter()
    if call.is_streaming:
        return _start_on_thread(call, interpreter)
    state = ProgramState(interpreter, executes_at_once=call.executes_at_once)
    with interpreter:
        state.ret_value = _body(call, interpreter, state)
    if global_config.verbosity >= 2:
        sys.stdout.write(state.text() + "\n")
    return state


def start(call: Call) -> ProgramState:
    """On the running loop, for an async caller, who awaits the state. A function that is not async gets a thread."""
    interpreter = call.interpreter()
    if not call.function.is_async:
        return _start_on_thread(call, interpreter, is_async=True)
    returned: Future[None] = Future()
    state = ProgramState(interpreter, body=returned, is_async=True)
    task = asyncio.ensure_future(call.on(ProgramState(interpreter, is_async=True)))
    interpreter.own(task)
    task.add_done_callback(partial(_finish, state, interpreter, returned))
    return state


def _body(call: Call, interpreter: Interpreter, state: ProgramState) -> Any:
    if not call.function.is_async:
        return call.on(state)
    return interpreter.loop.run(call.on(ProgramState(interpreter, is_async=True)))


def _start_on_thread(call: Call, interpreter: Interpreter, *, is_async: bool = False) -> ProgramState:
    returned: Future[None] = Future()
    state = ProgramState(interpreter, body=returned, is_async=is_async)
    context = contextvars.copy_context()
    with_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="frontend-program")
    inner = ProgramState(interpreter)
    future = with_thread.submit(context.run, _body, call, interpreter, inner)
    with_thread.shutdown(wait=False)
    future.add_done_callback(partial(_finish, state, interpreter, returned))
    return state


def _finish(
    state: ProgramState, interpreter: Interpreter, returned: Future[None], ended: Future[Any] | asyncio.Future[Any]
) -> None:
    """The function has returned or raised."""
    settle(state, interpreter, ended)
    returned.set_result(None)


def settle(state: ProgramState, interpreter: Interpreter, ended: Future[Any] | asyncio.Future[Any]) -> None:
    """Tell the interpreter how the function ended, and keep what it returned."""
    error = asyncio.CancelledError() if ended.cancelled() else ended.exception()
    if error is None:
        state.ret_value = ended.result()
        interpreter.end()
    else:
        interpreter.stop(error)
