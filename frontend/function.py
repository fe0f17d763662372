"""A program: a function whose first parameter is the state `s` that it appends to."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from frontend.errors import ProgramError
from frontend.options import BatchOptions, sampling_of, taken_from
from frontend.settings import chosen, unwrapped

if TYPE_CHECKING:
    from frontend.batch import Batch
    from frontend.launch import Call
    from frontend.state import ProgramState
    from frontend.tracing import TracerState

MIN_CACHED_CHARS = 64


class Function:
    """Made by `@function`. Calling it runs it, or traces it inside a program that is traced."""

    def __init__(
        self,
        func: Callable[..., Any],
        num_api_spec_tokens: int | None = None,
        bind_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises `ProgramError` if the first parameter is not called `s`."""
        functools.update_wrapper(self, func)
        names = inspect.getfullargspec(func).args
        if not names or names[0] != "s":
            raise ProgramError(f'the first argument of {func.__name__} must be called "s"')
        self.func = func
        self.num_api_spec_tokens = num_api_spec_tokens
        self.bind_arguments = dict(bind_arguments or {})
        self.arg_names = names[1:]
        self.num_defaults = len(inspect.getfullargspec(func).defaults or ())
        self.is_async = inspect.iscoroutinefunction(func)

    def bind(self, **kwargs: Any) -> Function:
        """The same program with these arguments fixed; what the caller gives for them does not count."""
        unknown = [name for name in kwargs if name not in self.arg_names]
        if unknown:
            raise ProgramError(f"{self.func.__name__} has no argument {', '.join(unknown)}")
        return Function(self.func, self.num_api_spec_tokens, {**self.bind_arguments, **kwargs})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from frontend.tracing import current_tracer

        tracer = current_tracer()
        if tracer is None:
            return self.run(*args, **kwargs)
        from frontend.tracing import trace

        return trace(self, {**dict(zip(self.arg_names, args, strict=False)), **kwargs}, tracer.template)

    # -- running ---------------------------------------------------------------------------------------------------------

    def run(self, *args: Any, **kwargs: Any) -> ProgramState:
        """Run it, and return its state without waiting for generations that it does not read itself.

        Keyword arguments are the program's own and `SamplingOptions`, besides `stream` (text_iter gives pieces as they come),
        `backend`, and `use_thread` (False: each expression is executed before the next line of the program, and raises there).
        What a backend fails with is in `state.error()`, and raised where the missing variable is read.
        """
        from frontend.launch import run

        return run(self._call(args, kwargs))

    def run_async(self, *args: Any, **kwargs: Any) -> ProgramState:
        """For async callers: `state = await f.run_async(...)`, or `async for piece in f.run_async(..., stream=True)`."""
        from frontend.launch import start

        return start(self._call(args, kwargs))

    @overload
    def run_batch(
        self, batch_kwargs: Sequence[Any], *, generator_style: Literal[False] = False, **options: Unpack[BatchOptions]
    ) -> list[ProgramState]: ...
    @overload
    def run_batch(
        self, batch_kwargs: Sequence[Any], *, generator_style: Literal[True], **options: Unpack[BatchOptions]
    ) -> Iterator[ProgramState]: ...
    def run_batch(
        self, batch_kwargs: Sequence[Any], *, generator_style: bool = False, **options: Unpack[BatchOptions]
    ) -> list[ProgramState] | Iterator[ProgramState]:
        """Run it for each dict (or tuple) of arguments; the finished states in that order, as a list or one by one.

        What the prompts have in common is computed once, first. A program that fails has its error in `state.error()`.
        """
        results = self._batch(batch_kwargs, options).results() if batch_kwargs else iter(())
        return results if generator_style else list(results)

    async def run_batch_async(self, batch_kwargs: Sequence[Any], **options: Unpack[BatchOptions]) -> list[ProgramState]:
        """As `run_batch`, without blocking the caller's event loop."""
        return await self._batch(batch_kwargs, options).results_async() if batch_kwargs else []

    def _call(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Call:
        from frontend.launch import Call

        options = taken_from(kwargs)
        return Call(
            function=self,
            args=args,
            kwargs={**kwargs, **self.bind_arguments},
            sampling=sampling_of(options),
            backend=chosen(options.get("backend")),
            is_streaming=options.get("stream", False),
            executes_at_once=not options.get("use_thread", True),
        )

    def _batch(self, batch_kwargs: Sequence[Any], options: BatchOptions) -> Batch:
        from frontend.batch import AUTO_CONCURRENCY, Batch
        from frontend.checkpoint import Checkpoint
        from frontend.launch import Call

        backend, sampling = chosen(options.get("backend")), sampling_of(options)
        calls = [
            Call(function=self, kwargs={**self._named(item), **self.bind_arguments}, sampling=sampling, backend=backend)
            for item in batch_kwargs
        ]
        num_threads = options.get("num_threads", "auto")
        path = options.get("checkpoint")
        return Batch(
            calls,
            AUTO_CONCURRENCY if num_threads == "auto" else num_threads,
            checkpoint=None if path is None else Checkpoint(path),
            shows_progress=options.get("progress_bar", False),
        )

    def _named(self, item: Any) -> dict[str, Any]:
        """A dict as it is; a list or tuple by position. Raises `ProgramError` if there are too many or too few."""
        if isinstance(item, dict):
            return item
        least = len(self.arg_names) - self.num_defaults
        if not isinstance(item, list | tuple) or not least <= len(item) <= len(self.arg_names):
            raise ProgramError(f"{item!r} does not fit the arguments of {self.func.__name__}: {', '.join(self.arg_names)}")
        return dict(zip(self.arg_names, item, strict=False))

    # -- without a model -------------------------------------------------------------------------------------------------

    def trace(self, *, backend: Any = None, **kwargs: Any) -> TracerState:
        """The program's expressions. Arguments that are not given stay open."""
        from frontend.chat_template import get_chat_template
        from frontend.tracing import trace

        found = unwrapped(backend)
        return trace(self, kwargs, found.get_chat_template() if found is not None else get_chat_template("default"))

    def cache(self, backend: Any = None) -> None:
        """Have the backend compute the constant text that the program begins with, if it is worth it."""
        from frontend.tracing import prefix_of

        found = chosen(backend)
        prefix = prefix_of(self, found.get_chat_template())
        if len(prefix) > MIN_CACHED_CHARS:
            found.cache_prefix(prefix)
