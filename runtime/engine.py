"""The offline engine: the server's actors in this process, without HTTP.

    with Engine() as engine:
        print(engine.generate("The capital of France is", {"max_new_tokens": 8})["text"])

The actors live on an event loop and a thread of their own, so that the same engine serves plain scripts and code that runs in
an event loop. What a call asks for passes through the schema of `/generate`, so that it is checked, named and answered alike.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from types import TracebackType
from typing import Any

from runtime.config import from_flat
from runtime.http.failure import error_of
from runtime.loop_thread import LoopThread
from runtime.messages import (
    EngineCommand,
    ReadWeights,
    Refused,
    ReleaseMemory,
    ResumeMemory,
    StartProfile,
    StopProfile,
    UpdateWeights,
)
from runtime.offline import Offline
from runtime.startup import with_seed

Event = dict[str, Any]
"""One sequence's text so far, and `meta_info`: an event of a `/generate` stream."""

Result = Event | list[Event]
"""What `/generate` answers: a dict for one sequence, a list for a batch or n > 1."""


class Engine:
    """A loaded model and its actors. Options are the server's flags as keywords: `Engine(model_path="…", dtype="bfloat16")`.

    Raises `ConfigError`, `LoadError` and `EngineError`. Its methods may be called from any thread, and `async_generate` in any
    event loop.
    """

    def __init__(self, **flags: Any) -> None:
        config = with_seed(from_flat(flags))
        self._thread = LoopThread("engine")
        with contextlib.ExitStack() as failed:
            failed.callback(self._thread.stop)
            self._offline = self._thread.run(Offline.start(config))
            failed.pop_all()

    def generate(
        self, prompt: str | list[str] | None = None, sampling_params: Any = None, *, stream: bool = False, **fields: Any
    ) -> Any:
        """The `Result` that `/generate` answers to the same fields, or an iterator over its `Event`s with `stream`.

        `prompt` is the field `text`. Raises `RequestError`. Leaving the iterator early aborts the request.
        """
        body = _body(prompt, sampling_params, fields)
        return self._stream(body) if stream else self._thread.run(self._offline.whole(body))

    async def async_generate(
        self, prompt: str | list[str] | None = None, sampling_params: Any = None, *, stream: bool = False, **fields: Any
    ) -> Any:
        """As `generate`, with an asynchronous iterator. Cancelling the call aborts the request."""
        body = _body(prompt, sampling_params, fields)
        if stream:
            return self._async_stream(body)
        return await asyncio.wrap_future(self._thread.submit(self._offline.whole(body)))

    def get_server_info(self) -> dict[str, Any]:
        """The flags and limits, as `/get_server_info` names them."""
        return self._thread.run(self._offline.facts())

    def flush_cache(self) -> bool:
        """Forget the cached prefixes that no request uses; whether that was all of them."""
        return self._thread.run(self._offline.flush_cache())

    def update_weights_from_disk(self, model_path: str, load_format: str | None = None) -> None:
        """Let running requests end, then serve other weights of the same shapes.

        Raises `RequestError`; then the old ones stay.
        """
        self._command(UpdateWeights(model_path=model_path, load_format=load_format))

    def get_weights_by_name(self, name: str, truncate_size: int = 100) -> list[Any]:
        """The first rows of a parameter, by its name in the checkpoint."""
        return list(self._command(ReadWeights(name=name, truncate_size=truncate_size)))

    def release_memory_occupation(self) -> None:
        """Give the memory of weights and cache back until `resume_memory_occupation`."""
        self._command(ReleaseMemory())

    def resume_memory_occupation(self) -> None:
        self._command(ResumeMemory())

    def start_profile(self, output_dir: str) -> None:
        """Record the operators of the steps from now on."""
        self._command(StartProfile(output_dir=output_dir))

    def stop_profile(self) -> str:
        """The path of the trace, which Perfetto and Chrome open."""
        return str(self._command(StopProfile()))

    def shutdown(self) -> None:
        """End all requests and free the model; idempotent."""
        if self._thread.is_running:
            self._thread.run(self._offline.stop())
            self._thread.stop()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    def _stream(self, body: dict[str, Any]) -> Iterator[Event]:
        events = self._offline.events(body)
        try:
            while (event := self._thread.run(_next(events))) is not None:
                yield event
        finally:
            self._thread.run(_close(events))

    async def _async_stream(self, body: dict[str, Any]) -> AsyncIterator[Event]:
        events = self._offline.events(body)
        try:
            while (event := await asyncio.wrap_future(self._thread.submit(_next(events)))) is not None:
                yield event
        finally:
            await asyncio.wrap_future(self._thread.submit(_close(events)))

    def _command(self, command: EngineCommand) -> Any:
        answer = self._thread.run(self._offline.command(command))
        if isinstance(answer, Refused):
            raise error_of(answer.failure)
        return answer.value


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


async def _close(events: AsyncGenerator[Event, None]) -> None:
    await events.aclose()


def _body(prompt: str | list[str] | None, sampling_params: Any, fields: dict[str, Any]) -> dict[str, Any]:
    given = {"text": prompt, "sampling_params": sampling_params, **fields}
    return {name: value for name, value in given.items() if value is not None}
