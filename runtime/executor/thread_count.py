"""How many threads share a step's work: one per core, or as many as the cores have hardware threads if those are faster.

Two hardware threads of a core share its arithmetic units: steps that wait for memory gain from both, steps that multiply lose.
Which it is differs between processors, so that it is measured at start-up, where there is a choice at all.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from kernels import native
from runtime.clock import Clock
from runtime.layers.forward import ForwardBatch
from runtime.models.captured import CapturedDecoder

SIBLINGS = Path("/sys/devices/system/cpu")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
NUM_ROWS = 8
NUM_WARM_UPS = 2
NUM_RUNS = 7
WORTH_A_CHANGE = 0.95
"""Another number than the default takes at most this share of its time: on a busy machine measurements differ."""


def num_usable_cpus() -> int:
    """CPUs, hardware threads included, that the process may run on, and may use up by its container's quota."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return min(len(os.sched_getaffinity(0)), _quota(CPU_QUOTA))


def num_usable_cores() -> int:
    """As `num_usable_cpus`, hardware threads of one core counted once."""
    if sys.platform != "linux":
        return num_usable_cpus()
    return min(num_usable_cpus(), _count_cores(os.sched_getaffinity(0), SIBLINGS))


def choose_num_threads(model: CapturedDecoder, page_size: int, clock: Clock) -> int:
    """The number for steps of `model`; takes some tens of milliseconds where cores have several hardware threads."""
    default, most = num_usable_cores(), num_usable_cpus()
    return default if most == default else fastest((default, most), _decode_step(model, page_size), clock)


def fastest(candidates: Iterable[int], step: Callable[[], object], clock: Clock) -> int:
    """The number of threads with the shortest `step`; the first, unless another one is clearly faster."""
    first, *others = candidates
    chosen, limit_s = first, _shortest_s(first, step, clock) * WORTH_A_CHANGE
    for num_threads in others:
        seconds = _shortest_s(num_threads, step, clock)
        if seconds < limit_s:
            chosen, limit_s = num_threads, seconds
    return chosen


def _shortest_s(num_threads: int, step: Callable[[], object], clock: Clock) -> float:
    native.set_num_threads(num_threads)
    for _ in range(NUM_WARM_UPS):
        step()
    times_s = []
    for _ in range(NUM_RUNS):
        started = clock.monotonic()
        step()
        times_s.append(clock.monotonic() - started)
    return min(times_s)


def _decode_step(model: CapturedDecoder, page_size: int) -> Callable[[], object]:
    """One token of each of a few sequences, in a cache of its own."""
    kv = model.kv_shape().allocate(NUM_ROWS, page_size)
    rows = torch.arange(NUM_ROWS, dtype=torch.int32)
    batch = ForwardBatch(
        token_ids=torch.zeros(NUM_ROWS, dtype=torch.int64),
        positions=torch.zeros(NUM_ROWS, dtype=torch.int32),
        query_starts=torch.arange(NUM_ROWS + 1, dtype=torch.int32),
        kv_lengths=torch.ones(NUM_ROWS, dtype=torch.int32),
        page_tables=rows[:, None].contiguous(),
        write_slots=rows * page_size,
        logit_rows=rows.long(),
    )
    return lambda: model.forward(batch, kv)


def _quota(path: Path) -> int:
    """CPUs that the control group may use up, in whole ones; see the kernel's cgroup-v2.rst."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return sys.maxsize
    return max(1, math.ceil(int(quota) / int(period))) if quota.isdigit() else sys.maxsize


def _count_cores(cpus: Iterable[int], siblings: Path) -> int:
    """Different cores among `cpus`; a CPU whose topology is unknown is one of its own."""
    cores = set()
    for cpu in cpus:
        try:
            cores.add((siblings / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return len(cores)
