"""Executes what one program records, in order, as a task on the shared loop.

Threads hand in expressions with `submit`, which never waits, and wait for futures. Text alone wakes nobody: it is executed
with the next expression that asks the model, or when somebody waits. What fails ends the program: what is queued is dropped,
and every waiter wakes. The invariant: a future that was handed out is always set, and a variable is waited for exactly
while an expression that sets it is queued or running.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Any, Self

from frontend import commands, ir
from frontend.backend import Backend, Completion, Prompt, Usage
from frontend.errors import Cancelled, ProgramError
from frontend.loop import LoopThread
from frontend.media import image_as_base64, video_as_base64
from frontend.reasoning import separated
from frontend.record import Record
from frontend.sampling import Sampling
from frontend.speculation import Generated, SpeculatedText, SpeculatedTurn

log = logging.getLogger("frontend")

Queued = ir.Expr | commands.Command


class Interpreter:
    """`before_first` is awaited with the first prompt before that goes to the backend: `run_batch` warms the prefix there."""

    def __init__(
        self,
        backend: Backend,
        sampling: Sampling,
        loop: LoopThread,
        *,
        is_streaming: bool = False,
        num_api_spec_tokens: int | None = None,
        before_first: Callable[[Prompt], Awaitable[None]] | None = None,
    ) -> None:
        self.backend = backend
        self.sampling = sampling
        self.loop = loop
        self.is_streaming = is_streaming
        self.record = Record(backend.get_chat_template())
        self.usage = Usage()
        self.failure: BaseException | None = None
        self.is_finished = False
        """Nothing will be said any more."""
        self._num_api_spec_tokens = num_api_spec_tokens
        self._before_first = before_first
        self._lock = threading.Lock()
        self._queue: deque[Queued] = deque()
        self._num_left = 0
        """Of what was submitted, less marks: queued and being executed."""
        self._unset: dict[Any, deque[Future[None]]] = {}
        self._is_awake = False
        self._task: asyncio.Task[None] | None = None
        self._body: asyncio.Task[Any] | None = None
        self._stop_cause: BaseException | None = None
        self._listeners: list[Callable[[], object]] = []
        self._children: list[Interpreter] = []
        self._speculated = SpeculatedText(num_api_spec_tokens or 0)
        self._turn: SpeculatedTurn | None = None

    # -- from any thread -------------------------------------------------------------------------------------------------

    def submit(self, item: Queued) -> None:
        """Execute it after all that was submitted before. After a failure it is dropped."""
        with self._lock:
            for name in ir.names_set_by(item) if isinstance(item, ir.Expr) else ():
                self._unset.setdefault(name, deque()).append(self._new_future())
            if self.failure is None:
                self._queue.append(item)
                self._num_left += not isinstance(item, commands.Mark)
            elif isinstance(item, commands.Command):
                item.abandon(self.failure)
        if self.is_streaming or isinstance(item, commands.Command) or ir.asks_the_model(item):
            self._wake()

    def settled(self) -> Future[None]:
        """Is set when all that was submitted so far has been executed, or the program has failed."""
        marker = commands.Mark()
        with self._lock:
            is_idle = self.failure is not None or not (self._num_left or self._stop_cause)
        if is_idle:
            marker.done.set_result(None)
        else:
            self.submit(marker)
        return marker.done

    def until_set(self, name: object) -> Future[None] | None:
        """Is set when the last submitted expression that sets the variable has been executed, or the program has failed."""
        with self._lock:
            unset = self._unset.get(name)
            future = unset[-1] if unset else None
        if future is not None:
            self._wake()
        return future

    def is_unset(self, name: object) -> bool:
        """Whether an expression that sets the variable is still to be executed; after a failure it never will be."""
        with self._lock:
            return bool(self._unset.get(name))

    def end(self) -> None:
        """Nothing more will be submitted, here and to the forks."""
        for interpreter in (*self._children, self):
            interpreter.submit(commands.End())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The program's function ends here: what it raised ends the program."""
        if error is None:
            self.end()
        else:
            self.stop(error)

    def stop(self, cause: BaseException) -> None:
        """End the program and its forks now, with `cause` as their failure. Requests that are running are aborted."""
        for child in self._children:
            child.stop(cause)
        with self._lock:
            self._stop_cause = self._stop_cause or cause
        self.loop.call(self._stop)

    @contextmanager
    def calling(self, listener: Callable[[], object]) -> Iterator[None]:
        """Inside, `listener` is called on the loop after each change of the record."""
        self._listeners.append(listener)
        self._wake()
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def fork(self, size: int) -> list[Interpreter]:
        """`size` interpreters that go on from what will have been said here."""
        handovers: list[Future[Record]] = [Future() for _ in range(size)]
        children = [self._child(handover) for handover in handovers]
        self._children += children
        self.submit(commands.Fork(handovers))
        return children

    def own(self, body: asyncio.Task[Any]) -> None:
        """Keep the task of an async program's function: event loops forget theirs."""
        self._body = body

    def total_usage(self) -> Usage:
        """With that of the forks."""
        return sum((child.total_usage() for child in self._children), self.usage)

    def _child(self, handover: Future[Record]) -> Interpreter:
        child = Interpreter(
            self.backend,
            self.sampling,
            self.loop,
            is_streaming=self.is_streaming,
            num_api_spec_tokens=self._num_api_spec_tokens,
            before_first=self._ready,
        )
        child.submit(commands.Adopt(handover))
        return child

    def _new_future(self) -> Future[None]:
        future: Future[None] = Future()
        if self.failure is not None:
            future.set_result(None)
        return future

    def _wake(self) -> None:
        with self._lock:
            if self._is_awake or not self._queue:
                return
            self._is_awake = True
        self.loop.call(self._start)

    # -- on the loop -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._drain())
        self._task.add_done_callback(self._drained)

    async def _drain(self) -> None:
        while (item := self._take()) is not None:
            await self._execute(item)
            with self._lock:
                self._num_left -= not isinstance(item, commands.Mark)
            self._changed()

    def _take(self) -> Queued | None:
        """Nothing more once the program is to stop: who waits shall wake after the failure is known."""
        with self._lock:
            if self._queue and self._stop_cause is None:
                return self._queue.popleft()
            self._is_awake = False
            return None

    def _drained(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # it may have a successor already
            self._task = None
        if task.cancelled():
            self._fail(self._stop_cause or Cancelled("the program was cancelled"))
        elif (error := task.exception()) is not None:
            log.warning("a program stopped: %s: %s", type(error).__name__, error)
            self._fail(error)
        elif self._stop_cause is not None:
            self._fail(self._stop_cause)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif self._stop_cause is not None:
            self._fail(self._stop_cause)

    def _fail(self, cause: BaseException) -> None:
        with self._lock:
            if self.failure is not None:
                return
            self.failure = cause
            self._is_awake, self.is_finished = False, True
            dropped, self._queue = list(self._queue), deque()
            waiting = [future for futures in self._unset.values() for future in futures if not future.done()]
        for future in waiting:
            future.set_result(None)
        for item in dropped:
            if isinstance(item, commands.Command):
                item.abandon(cause)
        self._changed()

    def _changed(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _set(self, name: object) -> None:
        with self._lock:
            future = self._unset[name].popleft()
        future.set_result(None)

    # -- what each expression does ---------------------------------------------------------------------------------------

    async def _execute(self, item: Queued) -> None:
        record = self.record
        match item:
            case ir.Text(value):
                self._fill(value)
            case ir.Gen():
                await self._generate(item)
            case ir.Select():
                await self._select(item)
            case ir.Sequence(items):
                for inner in items:
                    await self._execute(inner)
            case ir.Turn(role, body):
                await self._execute(ir.RoleBegin(role))
                if body is not None:
                    await self._execute(body)
                await self._execute(ir.RoleEnd(role))
            case ir.RoleBegin(role):
                self._begin_role(role)
            case ir.RoleEnd(role):
                await self._end_role(role)
            case ir.ScopeBegin(name):
                record.begin_scope(name)
            case ir.ScopeEnd(name):
                record.end_scope(name)
                self._set(name)
            case ir.Image(source):
                record.add_image(await asyncio.to_thread(image_as_base64, source))
            case ir.Video(path, num_frames):
                record.add_image(await asyncio.to_thread(video_as_base64, path, num_frames))
            case ir.SeparateReasoning():
                await self._separate_reasoning(item)
            case commands.Command():
                await item.execute(self)
            case _:
                raise ProgramError(f"{type(item).__name__} can not be executed: it only stands in traced programs")

    def _fill(self, text: str) -> None:
        if self._turn is not None:
            self._turn.add_text(text)
            return
        self._speculated.skip(text)
        self.record.fill(text)

    def _begin_role(self, role: str) -> None:
        self.record.begin_role(role)
        if role == "assistant" and self._num_api_spec_tokens is not None and self.backend.is_chat_model:
            self._turn = SpeculatedTurn(self._num_api_spec_tokens)

    async def _end_role(self, role: str) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            if turn.has_generations:
                await self._ready(self.record.prompt())
            for part, completion in await turn.generate(self.backend, self.record.prompt()):
                if isinstance(part, Generated):
                    self._complete(part.name, completion)
                else:
                    self.record.fill(completion.text)
        self.record.end_role(role)

    async def _generate(self, gen: ir.Gen) -> None:
        sampling = gen.sampling.over(self.sampling).stopping_at(self.record.template.stop_str)
        if self._turn is not None:
            self._turn.add_generation(gen.name, sampling)
            return
        prompt = self.record.prompt()
        await self._ready(prompt)
        if self.is_streaming:
            await self._stream(gen.name, prompt, sampling)
        elif self._num_api_spec_tokens is not None:
            self._complete(gen.name, await self._speculated.generate(self.backend, prompt, sampling))
        else:
            self._complete(gen.name, await self.backend.generate(prompt, sampling))

    def _complete(self, name: str | None, completion: Completion) -> None:
        self.record.generated(name, completion.text, completion.meta_info)
        self.usage += completion.usage
        self._set(name)

    async def _stream(self, name: str | None, prompt: Prompt, sampling: Sampling) -> None:
        if self._num_api_spec_tokens is not None:
            raise ProgramError("a program with num_api_spec_tokens can not stream")
        self.record.begin_stream(name)
        usage = Usage()
        async with aclosing(self.backend.stream(prompt, sampling)) as pieces:
            async for piece in pieces:
                self.record.extend_stream(name, piece.text, piece.meta_info)
                usage = piece.usage
                self._changed()
        self.usage += usage
        self._set(name)

    async def _select(self, select: ir.Select) -> None:
        if self._turn is not None:
            raise ProgramError("select can not stand in an assistant turn that is generated with num_api_spec_tokens")
        prompt = self.record.prompt()
        await self._ready(prompt)
        selection = await self.backend.select(prompt, list(select.choices), select.temperature, select.method)
        self._complete(select.name, Completion(selection.decision.decision, selection.decision.meta_info, selection.usage))

    async def _ready(self, prompt: Prompt) -> None:
        before, self._before_first = self._before_first, None
        if before is not None:
            await before(prompt)

    async def _separate_reasoning(self, expr: ir.SeparateReasoning) -> None:
        start = len(self.record.text)
        await self._execute(expr.body)
        if not self.is_streaming and self._turn is None:
            separated(self.record, expr, start)

    async def warm(self) -> None:
        """Have the backend keep all that has been said."""
        prompt = self.record.prompt()
        await self._ready(prompt)
        if prompt.text:
            self.usage += await self.backend.warm(prompt)
