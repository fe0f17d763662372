"""One step from plan to launched work, without waiting for the device: the counterpart of `step_runner` for accelerators.

Owns both halves of the batch table, the keys and values, and the recorded graphs. One copy brings the step's few numbers to the
device, which gathers its inputs, computes, samples and keeps the tokens for the step after; one copy brings the tokens back.
Invariant: a step that failed costs only the sequences in it, unless the device is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
from torch import Tensor

from kernels.sampling import greedy, sample
from runtime.clock import Clock
from runtime.executor.device_port import DevicePort
from runtime.executor.device_table import DeviceTable
from runtime.executor.extras import NO_EXTENSIONS, Extensions, ExtraRow
from runtime.executor.followed import Followed
from runtime.executor.graphs import DecodeGraphs
from runtime.executor.late_choice import LateChoice, LateRow
from runtime.executor.launched import LaunchedStep
from runtime.executor.packet import Transfers
from runtime.executor.port import ExecutorLimits
from runtime.executor.slot_book import HostStep, SlotBook
from runtime.executor.step_inputs import StepInputs
from runtime.executor.warm_up import rehearsal_cache, rehearsal_limits, rehearsal_plans
from runtime.executor.wishes import WishRow
from runtime.layers.forward import ForwardBatch, KVCache, Queries
from runtime.messages import StepPlan
from runtime.params import SamplingParams

Settle = Callable[[], object]
"""Waits until the steps before are complete."""

REHEARSED_PARAMS = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=1.0, top_p=0.9, top_k=50, min_p=0.01, frequency_penalty=0.1, repetition_penalty=1.1),
)
"""Greedy, drawn, and with every step of the sampler."""


class DeviceModel(Protocol):
    """A decoder whose weights are on the device."""

    def hidden_states(self, batch: ForwardBatch, kv: KVCache, wanted: Queries | None = None) -> Tensor:
        """[wanted, hidden] outputs for `batch.logit_rows`, which are the tokens of `wanted`; writes keys and values to `kv`."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [rows, vocab] float32 in a new tensor, of rows of `hidden_states`."""
        ...


class DeviceRunner:
    """Not thread-safe: the executor's launcher owns it, and attaches `port` to its thread."""

    def __init__(
        self,
        model: DeviceModel,
        kv: KVCache,
        limits: ExecutorLimits,
        port: DevicePort,
        clock: Clock,
        extensions: Extensions = NO_EXTENSIONS,
        *,
        buckets: tuple[int, ...] = (),
    ) -> None:
        """`kv` has one page more than `limits` say, the last: the scratch page. `buckets`: the sizes of the graphs."""
        self._model: DeviceModel | None = model
        self._kv: KVCache | None = kv
        self._is_exchanged = False
        self._limits = limits
        self._port = port
        self._clock = clock
        self._book = SlotBook(limits, extensions)
        self._table = DeviceTable(limits, port.device, scratch_page=limits.num_pages)
        self._graphs = DecodeGraphs(port, self._table, buckets)

    @property
    def model(self) -> DeviceModel | None:
        """None while the memory of the weights is given back, and so with `kv`. Graphs know where both lie."""
        return self._model

    @model.setter
    def model(self, model: DeviceModel | None) -> None:
        if model is not self._model:
            self._graphs.clear()
            self._is_exchanged = True
        self._model = model

    @property
    def kv(self) -> KVCache | None:
        return self._kv

    @kv.setter
    def kv(self, kv: KVCache | None) -> None:
        self._graphs.clear()
        self._is_exchanged = True
        self._kv = kv

    def clear(self) -> None:
        """Forget all slots."""
        self._book.clear()

    def warm_up(self, *, show_progress: bool = False) -> None:
        """Rehearse in a cache of its own, and record the graphs. Raises what the model raises."""
        limits = rehearsal_limits(self._limits)
        model, kv = self._resident()
        small_kv = rehearsal_cache(kv, msgspec.structs.replace(limits, num_pages=limits.num_pages + 1))
        runner = DeviceRunner(model, small_kv, limits, self._port, self._clock)
        for params in REHEARSED_PARAMS:
            runner.clear()
            for plan in rehearsal_plans(limits, params):
                runner._rehearse(plan)
        self._graphs.capture(model, kv, show_progress=show_progress)

    def refresh(self) -> None:
        """After weights or memory were exchanged: record the graphs again, and return what was freed to the device."""
        if not self._is_exchanged:
            return
        self._is_exchanged = False
        self._port.finish()  # weights come in streams of their own
        self._port.give_back()
        if self._model is not None and self._kv is not None:
            self._graphs.capture(self._model, self._kv)

    def launch(self, plan: StepPlan, settle: Settle) -> LaunchedStep:
        """Launch the step. Raises `STEP_ERRORS`; then `lose` has to follow."""
        started = self._clock.monotonic()
        transfers, begun = Transfers(self._port), self._port.mark()
        step = self._book.prepare(plan)
        inputs = StepInputs(step, self._table, self._book.rules, self._graphs.bucket_for)
        inputs.send(transfers)
        self._book.sent()
        choice = LateChoice(_late_rows(step))
        token_ids = self._compute(step, inputs, choice, transfers, settle) if len(step.rows.slots) else None
        self._book.launched(step)
        return LaunchedStep(
            step_id=plan.step_id,
            begun=begun,
            ended=self._port.mark(),
            transfers=transfers,
            token_ids=token_ids,
            is_result=step.is_result,
            followed=_extra_rows(step, choice, inputs.wish_rows),
            wishes=inputs.wishes,
            sequences=self._book.sequences(step.rows),
            host_us=round((self._clock.monotonic() - started) * 1e6),
            tell=self._book.inbox.put,
        )

    def lose(self, plan: StepPlan) -> None:
        """The plan could not be launched."""
        self._book.lose(plan)

    def _resident(self) -> tuple[DeviceModel, KVCache]:
        if self._model is None or self._kv is None:
            raise RuntimeError("the engine's memory was given back, and steps can not be computed")
        return self._model, self._kv

    def _rehearse(self, plan: StepPlan) -> None:
        step = self.launch(plan, settle=lambda: None)
        step.wait()
        step.complete()

    def _compute(
        self, step: HostStep, inputs: StepInputs, choice: LateChoice, transfers: Transfers, settle: Settle
    ) -> Tensor | None:
        """The results [sampled] int32, on the host once the step has ended; None if there are none."""
        model, kv = self._resident()
        num_sampled = len(step.sampled.slots)
        hidden = self._hidden_states(model, kv, inputs)
        logits = model.logits(hidden[:num_sampled])  # [sampled, vocab]
        token_ids = inputs.words[:0].int()
        if num_sampled:
            token_ids = self._choose(step, inputs, logits, choice, transfers, settle)
            self._table.append(inputs.sampled_slots, inputs.sampled_ends, token_ids)
        inputs.wishes.launch(inputs.words, logits, token_ids, hidden[num_sampled:], model.logits, transfers)
        return transfers.fetch(token_ids) if num_sampled else None

    def _hidden_states(self, model: DeviceModel, kv: KVCache, inputs: StepInputs) -> Tensor:
        if inputs.bucket is not None:
            return self._graphs.replay(inputs.padded)
        batch, wanted = inputs.batch()
        return model.hidden_states(batch, kv, wanted)

    def _choose(
        self, step: HostStep, inputs: StepInputs, logits: Tensor, choice: LateChoice, transfers: Transfers, settle: Settle
    ) -> Tensor:
        """[sampled] int32 on the device."""
        if choice.rows:
            settle()
            choice.decide(logits, self._port, transfers)
        masks, mask_rows = choice.masks(len(logits), transfers)
        if masks is None and not any(step.needs):
            token_ids = greedy(logits)
        else:
            slots, positions = inputs.sampled_slots.int(), inputs.sampled_ends.int()
            history, rules = self._table.token_ids, self._table.rules
            token_ids = sample(
                logits, slots, positions, rules, history, needs=step.needs, allowed=masks, allowed_rows=mask_rows
            )
        choice.correct(token_ids, transfers)
        return token_ids


def _late_rows(step: HostStep) -> list[LateRow]:
    rows, places = step.rows, step.rows.samples.cumsum() - 1
    return [
        LateRow(int(places[index]), int(rows.ends[index]), followed)
        for index, followed in step.followed
        if followed.is_chosen_late and rows.samples[index]
    ]


def _extra_rows(step: HostStep, choice: LateChoice, wishes: dict[int, WishRow]) -> list[tuple[ExtraRow, Followed]]:
    rows, places = step.rows, step.rows.samples.cumsum() - 1
    found = []
    for index, followed in step.followed:
        place, is_sampled = int(places[index]), bool(rows.samples[index])
        row = ExtraRow(
            row=int(rows.indices[index]),
            slot=followed.slot,
            end=int(rows.ends[index]),
            is_sampled=is_sampled,
            chosen=place if is_sampled and place not in choice.known else None,
            extras=followed.extras,
            wish=wishes.get(index),
        )
        found.append((row, followed))
    return found
