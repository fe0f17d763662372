"""One step from plan to tokens, on the calling thread: batch table, model and sampler in a row.

Owns the batch table and the keys and values. Invariant: every plan gets an answer, and a step that failed costs only the
sequences in it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Protocol

import numpy as np
from torch import Tensor

from runtime.clock import Clock
from runtime.executor.batch import BatchTable, PreparedStep
from runtime.executor.extras import NO_EXTENSIONS, Extensions
from runtime.executor.port import ExecutorLimits
from runtime.executor.warm_up import rehearsal_cache, rehearsal_limits, rehearsal_plans
from runtime.executor.wishes import ToLogits, grant
from runtime.layers.forward import ForwardBatch, KVCache
from runtime.messages import INVALID_TOKEN, RowExtra, StepDone, StepFailed, StepPlan
from runtime.sampling.sampler import sample
from runtime.sampling.steps import Ids

log = logging.getLogger(__name__)

STEP_ERRORS = (RuntimeError, MemoryError, ValueError, LookupError, ArithmeticError)
"""What a plan, a model or its libraries raise when one step can not be computed; PyTorch's out of memory is a RuntimeError.

Anything else is a defect of the code, and ends the worker.
"""


class Model(Protocol):
    """A decoder, as far as the executor needs to know it."""

    def hidden_states(self, batch: ForwardBatch, kv: KVCache) -> Tensor:
        """[wanted, hidden] outputs for `batch.logit_rows`; writes the keys and values of the batch's tokens to `kv`."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [rows, vocab] float32 in a new tensor, of rows of `hidden_states`."""
        ...

    def argmax(self, hidden: Tensor) -> Tensor:
        """[rows] int64 the first id with the largest of a row's logits, which are not kept; `INVALID_TOKEN` if not finite."""
        ...


class StepRunner:
    """Runs plans one after the other. Not thread-safe: the executor's worker owns it."""

    def __init__(
        self, model: Model, kv: KVCache, limits: ExecutorLimits, clock: Clock, extensions: Extensions = NO_EXTENSIONS
    ) -> None:
        self.model: Model | None = model
        """None while the memory of the weights is given back, and so with `kv`."""
        self.kv: KVCache | None = kv
        self._limits = limits
        self._clock = clock
        self._table = BatchTable(limits, extensions)

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
        model, kv = self._resident()
        runner = StepRunner(model, rehearsal_cache(kv, limits), limits, self._clock)
        for plan in rehearsal_plans(limits):
            runner._compute(plan)

    def _compute(self, plan: StepPlan) -> StepDone:
        started = self._clock.monotonic()
        step = self._table.prepare(plan)
        prepared = self._clock.monotonic()
        token_ids, extras = self._forward(step)
        device_s = self._clock.monotonic() - prepared
        host_s = self._clock.monotonic() - started - device_s
        return StepDone(
            step_id=plan.step_id,
            token_ids=token_ids,
            extras=extras,
            device_us=round(device_s * 1e6),
            host_us=round(host_s * 1e6),
        )

    def _forward(self, step: PreparedStep) -> tuple[tuple[int, ...], tuple[RowExtra, ...]]:
        if step.batch is None:
            return self._table.commit(step, np.empty(0, dtype=np.int64)), ()
        model, kv = self._resident()
        hidden = model.hidden_states(step.batch, kv)  # [wanted, hidden]
        if not (step.special_rows or step.extra_rows):
            return self._table.commit(step, model.argmax(hidden).numpy()), ()
        logits = model.logits(hidden[: step.num_logits])  # [sampled, vocab]
        for row in step.extra_rows:
            row.fill_mask()
        sampled = sample(logits[: len(step.chosen.slots)], step.special_rows)
        results = self._table.commit(step, sampled)
        return results, self._extras(step, sampled, logits, hidden[step.num_logits :], model.logits)

    def _resident(self) -> tuple[Model, KVCache]:
        if self.model is None or self.kv is None:
            raise RuntimeError("the engine's memory was given back, and steps can not be computed")
        return self.model, self.kv

    def _extras(
        self, step: PreparedStep, sampled: Ids, logits: Tensor, hidden: Tensor, to_logits: ToLogits
    ) -> tuple[RowExtra, ...]:
        extras: list[RowExtra] = []
        fulfil = partial(grant, logits=logits, hidden=hidden, to_logits=to_logits)
        for row in step.extra_rows:
            token_id = INVALID_TOKEN if row.chosen is None else int(sampled[row.chosen])
            self._table.append(row.slot, row.advance(token_id))
            is_known = row.is_sampled and (row.chosen is None or token_id != INVALID_TOKEN)
            known_ids = self._table.known_ids(row.slot, row.end) if is_known else []
            extra = row.report(known_ids, fulfil)
            if extra is not None:
                extras.append(extra)
        return tuple(extras)
