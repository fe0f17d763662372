"""Commands to the engine, which are asked, and how the scheduler has the executor run them."""

from __future__ import annotations

from typing import Any, Literal

from runtime.errors import Failure
from runtime.messages.message import Message


class Done(Message, frozen=True, kw_only=True):
    """Answers a command that worked; `value` is what the command promises, None for most."""

    value: Any = None


class Refused(Message, frozen=True, kw_only=True):
    """Answers a command that did not. Nothing has changed."""

    failure: Failure


PauseMode = Literal["abort", "retract", "in_place"]


class PauseGeneration(Message, frozen=True, kw_only=True):
    """ask Scheduler: plan no more steps. Running requests are aborted, or give their pages back, or keep them."""

    mode: PauseMode = "abort"


class ContinueGeneration(Message, frozen=True, kw_only=True):
    """ask Scheduler: end of a pause."""


class UpdateWeights(Message, frozen=True, kw_only=True):
    """ask Scheduler: let running requests end, admit none meanwhile, load weights of the same shapes, flush the cache.

    Refused if the files are missing or do not fit: the old weights go on serving.
    """

    model_path: str
    load_format: str | None = None
    aborts_all: bool = False
    """Abort what runs instead of waiting for it."""


class ReadWeights(Message, frozen=True, kw_only=True):
    """ask Scheduler: the first `truncate_size` rows of a parameter, by its name in the checkpoint.

    `Done.value`: nested lists of floats.
    """

    name: str
    truncate_size: int = 100


class ReleaseMemory(Message, frozen=True, kw_only=True):
    """ask Scheduler: give the memory of idle weights and KV cache back. Refused while requests are open."""

    tags: tuple[Literal["weights", "kv_cache"], ...] = ("weights", "kv_cache")


class ResumeMemory(Message, frozen=True, kw_only=True):
    """ask Scheduler: take it again; requests that came meanwhile have waited."""

    tags: tuple[Literal["weights", "kv_cache"], ...] = ("weights", "kv_cache")


class StartProfile(Message, frozen=True, kw_only=True):
    """ask Scheduler: record the executor's operators. `num_steps` None: until `StopProfile`."""

    output_dir: str
    num_steps: int | None = None


class StopProfile(Message, frozen=True, kw_only=True):
    """ask Scheduler: write the trace, in Chrome's trace format. `Done.value`: its path."""


EngineCommand = (
    PauseGeneration
    | ContinueGeneration
    | UpdateWeights
    | ReadWeights
    | ReleaseMemory
    | ResumeMemory
    | StartProfile
    | StopProfile
)
"""Each is answered by `Done` or `Refused`."""


class RunCommand(Message, frozen=True, kw_only=True):
    """Scheduler → executor: to be done between the steps before and after it."""

    command_id: int
    command: EngineCommand


class CommandRan(Message, frozen=True, kw_only=True):
    """Executor → Scheduler: the answer to a `RunCommand`."""

    command_id: int
    answer: Done | Refused
