"""The thread of a rank that follows: runs rank 0's orders, one after the other, over its part of the model and of the cache.

Receives orders from the event loop's thread through a queue; reports the failure that ends it, if one does, back on the loop.
It samples nothing and remembers nothing of a sequence but its keys and values. Invariant: orders are run in the order of
submission, and none after one has failed: the ranks are then not in step any more.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

import torch

from kernels import native
from runtime.errors import EngineError
from runtime.executor.orders import ComputeHidden, ComputeLogits, Order, to_batch
from runtime.executor.port import ExecutorLimits
from runtime.executor.step_runner import STEP_ERRORS
from runtime.layers.forward import ForwardBatch, KVCache
from runtime.layers.rank_group import RankGroup
from runtime.models.decoder import Decoder

log = logging.getLogger(__name__)

PostFailure = Callable[[EngineError], None]

STOP_TIMEOUT_S = 10.0
"""How long `stop` waits for the order in hand. The worker is a daemon thread: a stuck one does not hold the process."""


class OrderWorker:
    """Its methods are called on the event loop's thread."""

    def __init__(
        self,
        decoder: Decoder,
        kv: KVCache,
        limits: ExecutorLimits,
        group: RankGroup,
        *,
        num_threads: int,
        num_torch_threads: int | None = None,
    ) -> None:
        """`num_threads` share a kernel's work; PyTorch uses as many, unless it is told to use `num_torch_threads`."""
        self.limits = limits
        self._decoder = decoder
        self._kv = kv
        self._group = group
        self._num_threads = num_threads
        self._num_torch_threads = num_torch_threads or num_threads
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._worker: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._post: PostFailure | None = None
        self._num_finished = 0
        self._is_stopping = False

    @property
    def num_finished(self) -> int:
        """Orders that are done; grows while there is work."""
        return self._num_finished

    def start(self, post: PostFailure) -> None:
        """Begin to run orders; `post` is called at most once, on the running loop, with what has ended the worker."""
        self._loop = asyncio.get_running_loop()
        self._post = post
        self._worker = threading.Thread(target=self._work, name="order worker", daemon=True)
        self._worker.start()

    def submit(self, order: Order) -> None:
        """Queue `order`. What is queued behind one that fails is not run."""
        self._orders.put(order)

    def stop(self) -> None:
        """Finish the order in hand, drop those behind it and end the worker; nothing is posted after this. Idempotent."""
        self._post = None
        self._is_stopping = True
        worker, self._worker = self._worker, None
        if worker is None:
            return
        self._orders.put(None)
        worker.join(STOP_TIMEOUT_S)
        if worker.is_alive():
            log.error("the order in hand did not end within %g s; leaving it behind", STOP_TIMEOUT_S)

    # -----------------------------------------------------------------------------------------------------------------
    # On the worker

    def _work(self) -> None:
        native.set_num_threads(self._num_threads)
        torch.set_num_threads(self._num_torch_threads)  # OpenMP keeps it per thread, so it is set here
        failure: EngineError | None = EngineError("the worker of this rank died")  # unless it ends in one of the known ways
        try:
            failure = self._run_all()
        finally:
            if failure is not None:
                self._send(failure)

    @torch.inference_mode()
    def _run_all(self) -> EngineError | None:
        """Returns what makes it impossible to go on, or None when it is told to stop."""
        while (order := self._orders.get()) is not None and not self._is_stopping:
            try:
                self._run(order)
            except EngineError as error:
                return error
            except STEP_ERRORS as error:
                log.error("an order failed", exc_info=error)
                return EngineError(f"rank {self._group.rank} could not do its part: {type(error).__name__}: {error}")
            self._num_finished += 1
        return None

    def _run(self, order: Order) -> None:
        match order:
            case ComputeHidden():
                batch = to_batch(order)
                self._check(batch)
                self._decoder.hidden_states(batch, self._kv)
            case ComputeLogits(num_rows=num_rows):
                hidden = torch.empty(num_rows, self._decoder.spec.hidden_size, dtype=self._decoder.dtype)
                self._group.broadcast(hidden)
                self._decoder.logits(hidden)

    def _check(self, batch: ForwardBatch) -> None:
        """The kernels trust what they are told: a page that does not exist would be another's memory."""
        num_pages, page_size = self.limits.num_pages, self.limits.page_size
        bounds = (
            ("token_ids", batch.token_ids, self.limits.vocab_size),
            ("positions", batch.positions, self.limits.context_length),
            ("query_starts", batch.query_starts, len(batch.token_ids) + 1),
            ("kv_lengths", batch.kv_lengths, batch.page_tables.shape[1] * page_size + 1),
            ("page_tables", batch.page_tables, num_pages),
            ("write_slots", batch.write_slots, num_pages * page_size),
            ("logit_rows", batch.logit_rows, len(batch.token_ids)),
        )
        for name, values, limit in bounds:
            if values.numel() and not (values.min() >= 0 and values.max() < limit):
                raise ValueError(f"an order's {name} are not all from 0 to {limit - 1}")

    def _send(self, failure: EngineError) -> None:
        assert self._loop is not None, "the worker begins after start"
        try:
            self._loop.call_soon_threadsafe(self._deliver, failure)
        except RuntimeError:
            log.debug("the loop is closed; %s is dropped", failure)

    # -----------------------------------------------------------------------------------------------------------------
    # On the loop again

    def _deliver(self, failure: EngineError) -> None:
        if self._post is not None:
            self._post(failure)
