"""One step from plan to tokens, on the calling thread: batch table, model and sampler in a row.

Owns the batch table and the keys and values. Invariant: every plan gets an answer, and a step that failed costs only the
sequences in it.
"""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
import torch

from runtime.clock import Clock
from runtime.executor.batch import BatchTable, PreparedStep
from runtime.executor.port import ExecutorLimits
from runtime.executor.warm_up import rehearsal_cache, rehearsal_limits, rehearsal_plans
from runtime.layers.forward import ForwardBatch, KVCache
from runtime.messages import StepDone, StepFailed, StepPlan
from runtime.sampling.sampler import sample
from runtime.sampling.steps import Ids

log = logging.getLogger(__name__)

STEP_ERRORS = (RuntimeError, MemoryError, ValueError, LookupError, ArithmeticError)
"""What a plan, a model or its libraries raise when one step can not be computed; PyTorch's out of memory is a RuntimeError.

Anything else is a defect of the code, and ends the worker.
"""


class Model(Protocol):
    """A decoder, as far as the executor needs to know it."""

    def forward(self, batch: ForwardBatch, kv: KVCache) -> torch.Tensor:
        """Logits [sampled, vocab] float32 of a new tensor; writes the keys and values of the batch's tokens to `kv`."""
        ...


class StepRunner:
    """Runs plans one after the other. Not thread-safe: the executor's worker owns it."""

    def __init__(self, model: Model, kv: KVCache, limits: ExecutorLimits, clock: Clock) -> None:
        self._model = model
        self._kv = kv
        self._limits = limits
        self._clock = clock
        self._table = BatchTable(limits)

    def run(self, plan: StepPlan) -> StepDone | StepFailed:
        """Compute the step. Raises nothing of `STEP_ERRORS`."""
        try:
            return self._compute(plan)
        except STEP_ERRORS as error:
            log.error("step %d failed", plan.step_id, exc_info=error)
            self._table.lose(plan)
            return StepFailed(step_id=plan.step_id, reason=f"{type(error).__name__}: {error}")

    def clear(self) -> None:
        """Forget all slots."""
        self._table.clear()

    def warm_up(self) -> None:
        """Rehearse in a cache of its own. Raises what the model raises."""
        limits = rehearsal_limits(self._limits)
        runner = StepRunner(self._model, rehearsal_cache(self._kv, limits), limits, self._clock)
        for plan in rehearsal_plans(limits):
            runner._compute(plan)

    def _compute(self, plan: StepPlan) -> StepDone:
        started = self._clock.monotonic()
        step = self._table.prepare(plan)
        prepared = self._clock.monotonic()
        sampled = self._forward(step)
        computed = self._clock.monotonic()
        token_ids = self._table.commit(step, sampled)
        device_s = computed - prepared
        host_s = self._clock.monotonic() - started - device_s
        return StepDone(step_id=plan.step_id, token_ids=token_ids, device_us=round(device_s * 1e6), host_us=round(host_s * 1e6))

    def _forward(self, step: PreparedStep) -> Ids:
        if step.batch is None:
            return np.empty(0, dtype=np.int64)
        logits = self._model.forward(step.batch, self._kv)  # [sampled, vocab]
        return sample(logits, step.special_rows)
