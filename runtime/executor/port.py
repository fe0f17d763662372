"""The executor port: what the scheduler drives. It names no device library, so that the control plane runs without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from runtime.messages import CommandRan, RunCommand, StepDone, StepFailed, StepPlan

PostResult = Callable[[StepDone | StepFailed | CommandRan], None]


class ExecutorLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the memory and the model allow; fixed once the executor is built."""

    num_pages: int
    page_size: int
    """Tokens per page."""
    num_slots: int
    """Sequences that can be in the batch table at a time."""
    context_length: int
    """Tokens, prompt and output together."""
    vocab_size: int
    """Width of the logits: the valid token ids are 0 ≤ id < vocab_size."""
    budget_tokens: int = 256
    """Tokens of a step that suit the device, unless `--chunked-prefill-size` says otherwise."""


class Executor(Protocol):
    """Runs steps in the order of submission. `submit` returns at once; results are posted on the event loop.

    Two steps may be in flight: the second takes the first one's sampled tokens from the device. A slot may be left out of
    some steps; its next row takes the last token that was sampled for it, however many steps ago.

    A plan has at least one row. Closes of an engine that became idle come with the next plan that has one, and a slot can be
    closed and opened in the same plan. Closes and opens of a step that failed count as done.
    """

    limits: ExecutorLimits

    def start(self, post: PostResult) -> None:
        """Begin to accept plans; every plan is answered by exactly one `post`, called on the running loop."""
        ...

    def submit(self, plan: StepPlan) -> None: ...

    def execute(self, command: RunCommand) -> None:
        """Do it after the plans submitted before; answered by exactly one `post`.

        Slots may still be open when weights or memory are exchanged, but none of them gets another row.
        """
        ...

    def reset(self) -> None:
        """Forget all slots (the engine group restarted). Plans submitted before are finished but not posted."""
        ...

    def stop(self) -> None:
        """Finish the step in flight and end the worker; idempotent."""
        ...
