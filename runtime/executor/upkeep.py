"""What is done to an engine between its steps: weights are exchanged or read, memory is given back, steps are recorded.

Owns the profiler and where the weights come from. Runs on the executor's worker. Invariant: a command that fails has changed
nothing: new weights take the place of the old ones only when they are complete.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch.profiler import ProfilerActivity, profile

from runtime.clock import Clock
from runtime.errors import CallboardError, Conflict, Failure, InvalidRequest, RequestError
from runtime.executor.memory import return_freed_memory
from runtime.executor.step_runner import STEP_ERRORS
from runtime.layers.forward import KVCache
from runtime.messages import (
    Done,
    EngineCommand,
    ReadWeights,
    Refused,
    ReleaseMemory,
    ResumeMemory,
    StartProfile,
    StopProfile,
    UpdateWeights,
)

log = logging.getLogger(__name__)

COMMAND_ERRORS = (CallboardError, OSError, *STEP_ERRORS)


Model = TypeVar("Model")
Loaded = TypeVar("Loaded", covariant=True)


class Resident(Protocol[Model]):
    """Whoever computes the steps. Both are None while their memory is given back."""

    model: Model | None
    kv: KVCache | None


class Source(Protocol[Loaded]):
    """Where an engine's weights and memory come from."""

    def check_release(self) -> None:
        """Raises `Conflict` if weights and memory that were given back could not be taken again."""
        ...

    def load(self, model_path: str | None, load_format: str | None) -> Loaded:
        """The weights of another checkpoint, or those that are served; raises `LoadError` if their shapes are not the same."""
        ...

    def read(self, name: str, num_rows: int) -> Any:
        """The first rows of a parameter as nested lists of floats. Raises `InvalidRequest` if there is none of that name."""
        ...

    def allocate(self) -> KVCache:
        """Keys and values, all zero. Raises `ConfigError` if there is no room."""
        ...


class Upkeep(Generic[Model]):
    """Answers commands. Not thread-safe: the executor's worker owns it."""

    def __init__(
        self, runner: Resident[Model], source: Source[Model] | None, clock: Clock, *, records_device: bool = False
    ) -> None:
        """`records_device`: profiles show a GPU's kernels too."""
        self._runner = runner
        self._activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if records_device else [])]
        self._source = source
        self._clock = clock
        self._profile: profile | None = None
        self._profile_dir = Path()
        self._num_steps_left: int | None = None
        self._trace: str | None = None

    def answer(self, command: EngineCommand) -> Done | Refused:
        """Do it. Raises nothing of `COMMAND_ERRORS`."""
        try:
            return Done(value=self._run(command))
        except COMMAND_ERRORS as error:
            log.error("%s failed: %s", type(command).__name__, error)
            return Refused(failure=_failure(error))

    @property
    def is_last_recorded_step(self) -> bool:
        """The next `step_ended` writes a trace, so that the step should really have ended."""
        return self._num_steps_left is not None and self._num_steps_left <= 1

    def step_ended(self) -> None:
        """Stop a recording that was asked for so many steps."""
        if self._num_steps_left is None:
            return
        self._num_steps_left -= 1
        if self._num_steps_left <= 0:
            answer = self.answer(StopProfile())
            self._trace = answer.value if isinstance(answer, Done) else None

    def restore(self) -> None:
        """Take back all memory: the scheduler that had it given back is no more. Raises `COMMAND_ERRORS`."""
        self._resume(("weights", "kv_cache"))

    def close(self) -> None:
        """End a recording without a trace: one that outlives its thread crashes the process at its exit."""
        recording, self._profile = self._profile, None
        self._num_steps_left = None
        if recording is not None:
            recording.stop()

    def _run(self, command: EngineCommand) -> Any:
        match command:
            case UpdateWeights(model_path=model_path, load_format=load_format):
                self._runner.model = self._sources().load(model_path, load_format)
            case ReadWeights(name=name, truncate_size=num_rows):
                return self._sources().read(name, num_rows)
            case ReleaseMemory(tags=tags):
                self._release(tags)
            case ResumeMemory(tags=tags):
                self._resume(tags)
            case StartProfile():
                self._start_profile(command)
            case StopProfile():
                return self._stop_profile()
            case _:
                raise InvalidRequest(f"the executor does not do {type(command).__name__}")
        return None

    def _sources(self) -> Source[Model]:
        if self._source is None:
            raise Conflict("this engine does not know where its weights come from")
        return self._source

    def _release(self, tags: tuple[str, ...]) -> None:
        self._sources().check_release()
        if "weights" in tags:
            self._runner.model = None
        if "kv_cache" in tags:
            self._runner.kv = None
        return_freed_memory()

    def _resume(self, tags: tuple[str, ...]) -> None:
        if "kv_cache" in tags and self._runner.kv is None:
            self._runner.kv = self._sources().allocate()
        if "weights" in tags and self._runner.model is None:
            self._runner.model = self._sources().load(None, None)

    def _start_profile(self, command: StartProfile) -> None:
        if self._profile is not None:
            raise Conflict("a profile is being recorded: stop it first")
        folder = Path(command.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._profile = profile(activities=self._activities)
        self._profile_dir, self._trace = folder, None
        self._num_steps_left = command.num_steps
        self._profile.start()

    def _stop_profile(self) -> str:
        """The path of the trace; once also of one that ended by its number of steps."""
        recording, self._profile = self._profile, None
        self._num_steps_left = None
        if recording is not None:
            recording.stop()
            path = self._profile_dir / f"{self._clock.wall():.3f}.trace.json.gz"
            recording.export_chrome_trace(str(path))
            self._trace = str(path)
        trace, self._trace = self._trace, None
        if trace is None:
            raise Conflict("no profile is being recorded: start one first")
        return trace


def _failure(error: BaseException) -> Failure:
    return error.failure if isinstance(error, RequestError) else InvalidRequest(str(error) or type(error).__name__).failure
