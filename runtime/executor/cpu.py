"""The executor for CPUs: one worker thread that runs plans in the order of submission.

Receives plans from the scheduler's thread through a queue; posts each result to the event loop with one wake-up. While a step
runs its OpenMP regions and kernels the GIL is free, so that the loop plans the next step meanwhile.
Invariant: only the worker touches the batch table and the keys and values; only the loop's thread touches everything else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue

import torch

from kernels import native
from runtime.clock import Clock, SystemClock
from runtime.errors import EngineError, RankLost
from runtime.executor.delivery import Delivery
from runtime.executor.extras import NO_EXTENSIONS, Extensions
from runtime.executor.port import ExecutorLimits, PostResult
from runtime.executor.step_runner import STEP_ERRORS, Model, StepRunner
from runtime.executor.upkeep import COMMAND_ERRORS, Source, Upkeep
from runtime.layers.forward import KVCache
from runtime.messages import CommandRan, RunCommand, StepDone, StepFailed, StepPlan

Job = Callable[[], None]

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10.0
"""How long `stop` waits for the step in flight. The worker is a daemon thread: a stuck one does not hold the process."""


class CpuExecutor:
    """Implements `runtime.executor.port.Executor`. Its methods are called on the event loop's thread."""

    def __init__(
        self,
        model: Model,
        kv: KVCache,
        limits: ExecutorLimits,
        *,
        num_threads: int,
        num_torch_threads: int | None = None,
        clock: Clock | None = None,
        extensions: Extensions = NO_EXTENSIONS,
        source: Source[Model] | None = None,
    ) -> None:
        """`num_threads` share a kernel's work; PyTorch uses as many, unless it is told to use `num_torch_threads`.

        `source` None: weights and memory can not be exchanged.
        """
        self.limits = limits
        self._num_threads = num_threads
        self._num_torch_threads = num_torch_threads or num_threads
        clock = clock or SystemClock()
        self._runner = StepRunner(model, kv, limits, clock, extensions)
        self._upkeep = Upkeep(self._runner, source, clock)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._worker: threading.Thread | None = None
        self._delivery = Delivery()

    def start(self, post: PostResult) -> None:
        """Begin to accept plans; results go to `post` on the running loop. Called again after a `reset`."""
        self._delivery.open(post)
        self._ensure_worker()

    def submit(self, plan: StepPlan) -> None:
        """Queue `plan`. Raises `EngineError` if the executor is not started, stopped, or its worker has died."""
        self._check_runs()
        self._jobs.put(partial(self._run_plan, plan, self._delivery.epoch))

    def execute(self, command: RunCommand) -> None:
        """Queue `command` behind the plans. Raises `EngineError` like `submit`."""
        self._check_runs()
        self._jobs.put(partial(self._run_command, command, self._delivery.epoch))

    def reset(self) -> None:
        """Forget all slots. The step in flight is finished but not posted, plans behind it are dropped."""
        self._delivery.forget()
        if self._worker is None:
            self._clear()
            return
        self._ensure_worker()
        self._jobs.put(self._clear)

    def stop(self) -> None:
        """Finish the step in flight, drop the plans behind it, and end the worker. Nothing is posted after this."""
        self._delivery.close()
        worker, self._worker = self._worker, None
        if worker is None:
            return
        self._jobs.put(None)
        worker.join(STOP_TIMEOUT_S)
        if worker.is_alive():
            log.error("the executor's step did not end within %g s; leaving it behind", STOP_TIMEOUT_S)

    def warm_up(self) -> None:
        """Compute a few dummy steps on the worker and wait for them; slots, keys and values stay untouched.

        Called before the first plan. Raises `EngineError` if the model can not compute them.
        """
        self._ensure_worker()
        done: Future[None] = Future()
        self._jobs.put(partial(self._warm_up, done))
        done.result()

    # -----------------------------------------------------------------------------------------------------------------
    # On the worker

    def _ensure_worker(self) -> None:
        if self._worker is None or not self._worker.is_alive():
            self._jobs = SimpleQueue()  # what a dead worker left behind is not run
            self._worker = threading.Thread(target=self._work, args=(self._jobs,), name="executor", daemon=True)
            self._worker.start()

    def _work(self, jobs: SimpleQueue[Job | None]) -> None:
        native.set_num_threads(self._num_threads)
        torch.set_num_threads(self._num_torch_threads)  # OpenMP keeps it per thread, so it is set here
        with torch.inference_mode():
            while (job := jobs.get()) is not None:
                job()
            self._upkeep.close()

    def _check_runs(self) -> None:
        if not self._delivery.is_open or self._worker is None or not self._worker.is_alive():
            raise EngineError("the executor does not run: start it before the first plan")

    def _clear(self) -> None:
        self._runner.clear()
        try:
            self._upkeep.restore()
        except COMMAND_ERRORS as error:  # steps will fail and say so
            log.error("the engine's memory can not be taken again", exc_info=error)

    def _run_command(self, command: RunCommand, epoch: int) -> None:
        if epoch == self._delivery.epoch:
            answer = self._upkeep.answer(command.command)
            self._delivery.send(epoch, CommandRan(command_id=command.command_id, answer=answer))

    def _run_plan(self, plan: StepPlan, epoch: int) -> None:
        if epoch != self._delivery.epoch:
            return
        result: StepDone | StepFailed | None = None
        try:
            result = self._runner.run(plan)
            self._upkeep.step_ended()
        except RankLost as error:
            result = StepFailed(step_id=plan.step_id, reason=str(error), is_fatal=True, lost="rank")
        finally:
            if result is None:  # a defect: this thread ends with the traceback, and the engine group has to restart
                result = StepFailed(step_id=plan.step_id, reason="the executor's worker died", is_fatal=True)
            self._delivery.send(epoch, result)

    def _warm_up(self, done: Future[None]) -> None:
        try:
            self._runner.warm_up()
            done.set_result(None)
        except STEP_ERRORS as error:
            done.set_exception(EngineError(f"the model can not compute a step: {error}"))
        except RankLost as error:
            done.set_exception(error)
        finally:
            if not done.done():
                done.set_exception(EngineError("the executor's worker died while it warmed up"))
