"""The executor for GPUs: one thread launches steps, one completes them, and the event loop waits for neither.

The launcher takes plans in the order of submission, and launches a step while the one before still computes, whose tokens it
never sees: they stay on the device. The completer waits until the device has passed a step's end, reads its results and posts
them with one wake-up of the loop. A step that can not be launched, for want of memory or because its plan is wrong, fails
alone; once the device itself is lost every step fails, and nothing but a new process helps (`DeviceLost`).
Invariants: at most `MAX_IN_FLIGHT` steps are launched and not complete; results are posted in the order of the plans; only the
launcher touches the batch table; only the loop's thread touches the delivery, but for sending.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

import torch

from runtime.clock import Clock, SystemClock
from runtime.errors import CallboardError, DeviceLost, EngineError
from runtime.executor.delivery import Delivery
from runtime.executor.device_port import DevicePort
from runtime.executor.device_runner import DeviceModel, DeviceRunner
from runtime.executor.launched import LaunchedStep
from runtime.executor.pipeline import Pipeline
from runtime.executor.port import ExecutorLimits, PostResult
from runtime.executor.step_runner import STEP_ERRORS
from runtime.executor.upkeep import COMMAND_ERRORS, Source, Upkeep
from runtime.messages import CommandRan, RunCommand, StepDone, StepFailed, StepPlan

log = logging.getLogger(__name__)

Job = Callable[[], None]
STOP_TIMEOUT_S = 10.0
"""How long `stop` waits for each thread. They are daemons: one that is stuck in the device does not hold the process."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """What the completer gets for a plan."""

    epoch: int
    step: LaunchedStep | StepFailed
    """It failed if it could not be launched."""


class CudaExecutor:
    """Implements `runtime.executor.port.Executor`. Its methods are called on the event loop's thread."""

    def __init__(
        self,
        runner: DeviceRunner,
        limits: ExecutorLimits,
        port: DevicePort,
        source: Source[DeviceModel] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`source` None: weights and memory can not be exchanged."""
        self.limits = limits
        self._runner = runner
        self._port = port
        self._upkeep = Upkeep(runner, source, clock or SystemClock(), records_device=port.device.type == "cuda")
        self._delivery = Delivery()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._pipeline: Pipeline[InFlight] = Pipeline()
        self._threads: tuple[threading.Thread, ...] = ()
        self._lost: DeviceLost | None = None

    def start(self, post: PostResult) -> None:
        """Begin to accept plans; results go to `post` on the running loop. Raises `DeviceLost` if it is."""
        self._check_device()
        self._delivery.open(post)
        self._ensure_threads()

    def submit(self, plan: StepPlan) -> None:
        """Queue `plan`. Raises `EngineError` if the executor is not started, stopped, or one of its threads has died."""
        self._check_runs()
        self._jobs.put(partial(self._launch, plan, self._delivery.epoch))

    def execute(self, command: RunCommand) -> None:
        """Queue `command` behind the plans. Raises `EngineError` like `submit`."""
        self._check_runs()
        self._jobs.put(partial(self._run_command, command, self._delivery.epoch))

    def reset(self) -> None:
        """Forget all slots. Steps in flight are finished but not posted, plans behind them are dropped."""
        self._delivery.forget()
        if self._lost is None:
            self._ensure_threads()
            self._jobs.put(self._clear)

    def stop(self) -> None:
        """Finish the steps in flight, drop the plans behind them, and end the threads. Nothing is posted after this."""
        self._delivery.close()
        threads, self._threads = self._threads, ()
        self._jobs.put(None)
        for thread in threads:
            thread.join(STOP_TIMEOUT_S)
            if thread.is_alive():
                log.error("the executor's %s did not end within %g s; leaving it behind", thread.name, STOP_TIMEOUT_S)

    def warm_up(self) -> None:
        """Compute a few dummy steps, so that kernels are compiled, and record the graphs; slots stay untouched.

        Called before the first plan. Raises `EngineError` if the model can not compute them.
        """
        self._ensure_threads()
        done: Future[None] = Future()
        self._jobs.put(partial(self._warm_up, done))
        done.result()

    # -- threads -------------------------------------------------------------------------------------------------------------

    def _ensure_threads(self) -> None:
        if self._threads and all(thread.is_alive() for thread in self._threads):
            return
        self._jobs.put(None)  # one that is left of a pair ends
        self._pipeline.close()
        self._jobs, self._pipeline = SimpleQueue(), Pipeline()
        self._threads = (
            threading.Thread(target=self._run_jobs, args=(self._jobs, self._pipeline), name="launcher", daemon=True),
            threading.Thread(target=self._complete_steps, args=(self._pipeline,), name="completer", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def _check_device(self) -> None:
        if self._lost is not None:
            raise self._lost

    def _check_runs(self) -> None:
        self._check_device()
        if not self._delivery.is_open or not self._threads or not all(thread.is_alive() for thread in self._threads):
            raise EngineError("the executor does not run: start it before the first plan")

    def _lose_device(self, error: BaseException) -> None:
        log.critical("the device is lost", exc_info=error)
        self._lost = self._lost or DeviceLost(f"the GPU does not compute any more: {_line(error)}; restart the server")

    # -- on the launcher -----------------------------------------------------------------------------------------------------

    def _run_jobs(self, jobs: SimpleQueue[Job | None], pipeline: Pipeline[InFlight]) -> None:
        try:
            with self._port.attached(), torch.inference_mode():
                while (job := jobs.get()) is not None:
                    job()
                pipeline.settle()
                self._upkeep.close()
        finally:
            pipeline.close()

    def _launch(self, plan: StepPlan, epoch: int) -> None:
        self._pipeline.admit()
        if epoch != self._delivery.epoch:
            return
        step: LaunchedStep | StepFailed | None = None
        try:
            step = self._try_launch(plan)
        finally:
            if step is None:  # a defect: this thread ends with the traceback, and the engine group has to restart
                step = StepFailed(step_id=plan.step_id, reason="the executor's launcher died", is_fatal=True)
            self._pipeline.put(InFlight(epoch, step))
        if self._upkeep.is_last_recorded_step:
            self._pipeline.settle()
        self._upkeep.step_ended()

    def _try_launch(self, plan: StepPlan) -> LaunchedStep | StepFailed:
        if self._lost is not None:
            return self._fatal(plan.step_id)
        try:
            return self._runner.launch(plan, self._pipeline.settle)
        except STEP_ERRORS as error:
            self._runner.lose(plan)
            return self._failed(plan.step_id, error)

    def _failed(self, step_id: int, error: BaseException) -> StepFailed:
        """What `error` means: the end of one step, or of the device."""
        if self._port.is_lost(error):
            self._lose_device(error)
            return self._fatal(step_id)
        log.error("step %d failed", step_id, exc_info=error)
        return StepFailed(step_id=step_id, reason=_line(error))

    def _fatal(self, step_id: int) -> StepFailed:
        return StepFailed(step_id=step_id, reason=str(self._lost), is_fatal=True, lost="device")

    def _run_command(self, command: RunCommand, epoch: int) -> None:
        self._pipeline.settle()
        if epoch == self._delivery.epoch:
            answer = self._upkeep.answer(command.command)
            self._refresh()
            self._delivery.send(epoch, CommandRan(command_id=command.command_id, answer=answer))

    def _clear(self) -> None:
        self._pipeline.settle()
        self._runner.clear()
        try:
            self._upkeep.restore()
        except COMMAND_ERRORS as error:  # steps will fail and say so
            log.error("the engine's memory can not be taken again", exc_info=error)
        self._refresh()

    def _refresh(self) -> None:
        try:
            self._runner.refresh()
        except STEP_ERRORS as error:
            log.error("graphs can not be recorded again, so steps are launched kernel by kernel", exc_info=error)

    def _warm_up(self, done: Future[None]) -> None:
        try:
            self._runner.warm_up(show_progress=True)
            done.set_result(None)
        except CallboardError as error:
            done.set_exception(error)
        except STEP_ERRORS as error:
            done.set_exception(EngineError(f"the model can not compute a step: {_line(error)}"))
        finally:
            if not done.done():
                done.set_exception(EngineError("the executor's launcher died while it warmed up"))

    # -- on the completer ----------------------------------------------------------------------------------------------------

    def _complete_steps(self, pipeline: Pipeline[InFlight]) -> None:
        try:
            with self._port.attached(), torch.inference_mode():
                while (taken := pipeline.take()) is not None:
                    self._complete(taken, pipeline)
        finally:
            pipeline.close()

    def _complete(self, taken: InFlight, pipeline: Pipeline[InFlight]) -> None:
        result: StepDone | StepFailed | None = None
        step = taken.step
        try:
            result = step if isinstance(step, StepFailed) else self._read(step)
        finally:
            if result is None:
                result = StepFailed(step_id=step.step_id, reason="the executor's completer died", is_fatal=True)
            pipeline.retire()
            self._delivery.send(taken.epoch, result)

    def _read(self, step: LaunchedStep) -> StepDone | StepFailed:
        try:
            step.wait()
            return step.complete()
        except STEP_ERRORS as error:
            step.lose()
            return self._failed(step.step_id, error)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]
