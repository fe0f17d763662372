"""The whole server over an executor that computes nothing: `python -m perf.mock_server --lag-file FILE [server flags]`.

What is left is the control plane: HTTP, tokenizer, scheduler, cache, detokenizer. Every token is the same plain word. How late
the event loop runs its timers is written to the file at the end.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
import orjson
import uvloop

from runtime import command_line
from runtime.assembly import Parts
from runtime.clock import SystemClock
from runtime.errors import Unsupported
from runtime.executor.port import ExecutorLimits, PostResult
from runtime.loading.checkpoint import open_checkpoint
from runtime.messages import CommandRan, Refused, RunCommand, StepDone, StepPlan
from runtime.metrics.registry import Registry
from runtime.serve import SWITCH_INTERVAL_S, serve_parts
from runtime.startup import with_seed

TICK_S = 0.01
TOKEN_ID = 5000
MAX_STREAMS = 1024


class MockExecutor:
    """Answers a plan on the next turn of the loop; implements `runtime.executor.port.Executor`."""

    def __init__(self, limits: ExecutorLimits) -> None:
        self.limits = limits
        self._post: PostResult | None = None

    def start(self, post: PostResult) -> None:
        self._post = post

    def submit(self, plan: StepPlan) -> None:
        num_samples = sum([row.sample for row in plan.rows])
        done = StepDone(step_id=plan.step_id, token_ids=(TOKEN_ID,) * num_samples)
        assert self._post is not None, "plans come after start"
        asyncio.get_running_loop().call_soon(self._post, done)

    def execute(self, command: RunCommand) -> None:
        """There is no model that a command could be for."""
        answer = Refused(failure=Unsupported("the mock executor has no model").failure)
        assert self._post is not None, "commands come after start"
        asyncio.get_running_loop().call_soon(self._post, CommandRan(command_id=command.command_id, answer=answer))

    def reset(self) -> None:
        self._post = None

    def stop(self) -> None:
        self._post = None


async def measure_lag(lags_s: list[float]) -> None:
    """Append how late each tick came."""
    while True:
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        lags_s.append(time.perf_counter() - due)


async def serve(flags: list[str], lags_s: list[float]) -> None:
    config = with_seed(command_line.parse(flags, prog="python -m perf.mock_server --lag-file FILE"))
    checkpoint = open_checkpoint(config.model)
    vocabulary = checkpoint.vocabulary()
    limits = ExecutorLimits(num_pages=2**16, page_size=16, num_slots=MAX_STREAMS, context_length=8192, vocab_size=49152)
    registry = Registry(config.model.served_model_name or "mock")
    parts = Parts(
        config=config,
        executor=MockExecutor(limits),
        vocabulary=vocabulary,
        chat_template=None,
        registry=registry,
        clock=SystemClock(),
    )
    lag = asyncio.create_task(measure_lag(lags_s))
    try:
        await serve_parts(parts, checkpoint)
    finally:
        lag.cancel()


def main() -> None:
    flag, lag_file, *flags = sys.argv[1:]
    if flag != "--lag-file":
        raise SystemExit(__doc__)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    lags_s: list[float] = []
    uvloop.run(serve(flags, lags_s))
    p50, p99 = np.percentile(lags_s, (50, 99)) * 1e3
    Path(lag_file).write_bytes(orjson.dumps({"lag_p50_ms": float(p50), "lag_p99_ms": float(p99)}))


if __name__ == "__main__":
    main()
