"""A device runner without its threads: steps are launched by hand, and completed one by one, two behind or when they must."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from runtime.clock import SystemClock
from runtime.executor.device_runner import DeviceModel, DeviceRunner
from runtime.executor.extras import NO_EXTENSIONS, Extensions
from runtime.executor.launched import LaunchedStep
from runtime.executor.port import ExecutorLimits
from runtime.executor.step_runner import STEP_ERRORS
from runtime.layers.forward import KVCache
from runtime.messages import StepDone, StepFailed, StepPlan
from tests.executor.fake_port import FakePort


class DeviceBench:
    """`results` are those of the completed steps, in order."""

    def __init__(
        self,
        model: Any,
        kv: KVCache,
        limits: ExecutorLimits,
        extensions: Extensions = NO_EXTENSIONS,
        *,
        buckets: tuple[int, ...] = (),
        max_in_flight: int = 2,
    ) -> None:
        """`kv` has a scratch page."""
        self.port = FakePort()
        self.in_flight: deque[LaunchedStep | StepFailed] = deque()
        self.results: list[StepDone | StepFailed] = []
        self.max_in_flight = max_in_flight
        self._runner = DeviceRunner(model, kv, limits, self.port, SystemClock(), extensions, buckets=buckets)
        with torch.inference_mode():
            self._runner.kv = kv
            self._runner.refresh()  # records the graphs

    @property
    def model(self) -> DeviceModel | None:
        return self._runner.model

    def run(self, plan: StepPlan) -> StepDone | StepFailed:
        """One step, to its end."""
        self.submit(plan)
        self.settle()
        return self.results[-1]

    @torch.inference_mode()
    def submit(self, plan: StepPlan) -> None:
        while len(self.in_flight) >= self.max_in_flight:
            self.complete()
        try:
            self.in_flight.append(self._runner.launch(plan, self.settle))
        except STEP_ERRORS as error:
            self._runner.lose(plan)
            self.in_flight.append(StepFailed(step_id=plan.step_id, reason=str(error)))

    def settle(self) -> None:
        """Complete all."""
        while self.in_flight:
            self.complete()

    @torch.inference_mode()
    def complete(self) -> None:
        step = self.in_flight.popleft()
        if isinstance(step, LaunchedStep):
            step.wait()
            step = step.complete()
        self.results.append(step)
