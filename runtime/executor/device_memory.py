"""How large the KV cache on a GPU is: what weights, the work of a step and recorded graphs leave.

The work of a step is not guessed: the largest one is computed once, before there is a cache. What is measured comes in as
numbers, so that sizing is pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import torch

from runtime.clock import Clock
from runtime.config import Config
from runtime.errors import ConfigError
from runtime.executor.device_port import DeviceMemory, DevicePort
from runtime.executor.device_runner import DeviceModel, DeviceRunner
from runtime.executor.device_table import DeviceTable
from runtime.executor.memory import DEFAULT_NUM_SLOTS, MIN_PAGES, ModelSize, limits_of, useful_pages
from runtime.executor.port import ExecutorLimits
from runtime.messages import SlotOpen, StepPlan, StepRow
from runtime.params import SamplingParams

BUDGET_TOKENS = 8192
"""Of a step on a GPU: enough to compute prompts at full speed, and few enough that sequences that generate go on meanwhile."""
GRAPH_BYTES = 8 * 2**20
"""What a recorded graph takes beside the memory that all of them share."""
RESERVED_SHARE = 0.02
"""Of all memory, for what is not measured: fragments, and libraries that load late."""
NUM_SCRATCH_PAGES = 1
MEGABYTE = 2**20
EVERYTHING = SamplingParams(temperature=1.0, top_p=0.9, top_k=50, min_p=0.01, frequency_penalty=0.1, repetition_penalty=1.1)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a GPU's memory is needed for beside weights and cache."""

    step_bytes: int
    graphs_bytes: int
    table_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.step_bytes + self.graphs_bytes + self.table_bytes


def size_device(config: Config, model: ModelSize, memory: DeviceMemory, footprint: Footprint) -> ExecutorLimits:
    """The limits of an executor for `model`; `memory` is that after loading it.

    Raises `ConfigError` if the flags ask for more than there is, or if fewer than `MIN_PAGES` pages fit.
    """
    page_size = config.cache.page_size
    room_bytes = _room_bytes(config.cache.mem_fraction_static, memory, footprint)
    num_pages = room_bytes // (page_size * model.kv_shape.bytes_per_token) - NUM_SCRATCH_PAGES
    if num_pages < MIN_PAGES:
        raise ConfigError(
            f"of the GPU's {memory.total_bytes // MEGABYTE} MB {memory.free_bytes // MEGABYTE} MB are free after loading the"
            f" model, and a step needs {footprint.total_bytes // MEGABYTE} MB, so no KV cache fits: use a smaller model or"
            " --dtype half, or lower --chunked-prefill-size, --max-running-requests or --cuda-graph-max-bs"
        )
    wanted = config.cache.max_total_tokens
    if wanted is not None and wanted // page_size > num_pages:
        raise ConfigError(
            f"--max-total-tokens {wanted} does not fit on the GPU: there is room for {num_pages * page_size} tokens"
        )
    useful = useful_pages(config, config.model.context_length or model.context_length) - NUM_SCRATCH_PAGES
    limits = limits_of(config, model, min(num_pages, useful) if wanted is None else wanted // page_size)
    return msgspec.structs.replace(limits, budget_tokens=BUDGET_TOKENS)


def _room_bytes(fraction: float | None, memory: DeviceMemory, footprint: Footprint) -> int:
    """For keys and values. `fraction` of all memory is for weights and cache; without one they take what is not needed."""
    most = memory.free_bytes - footprint.total_bytes
    used_bytes = memory.total_bytes - memory.free_bytes
    if fraction is None:
        return most - int(RESERVED_SHARE * memory.total_bytes)
    room = int(fraction * memory.total_bytes) - used_bytes
    if room > most:
        highest = int(100 * (used_bytes + max(most, 0)) / memory.total_bytes) / 100
        raise ConfigError(
            f"--mem-fraction-static {fraction:g} leaves too little of the GPU for a step, which needs"
            f" {footprint.total_bytes // MEGABYTE} MB: it can be at most {highest:g}"
        )
    return room


def step_limits(config: Config, model: ModelSize) -> ExecutorLimits:
    """Limits for the largest step alone: every slot, the whole budget, and pages that all sequences share."""
    num_slots = config.scheduler.max_running_requests or DEFAULT_NUM_SLOTS
    context_length = config.model.context_length or model.context_length
    budget = config.scheduler.chunked_prefill_size or BUDGET_TOKENS
    num_tokens = min(max(1, (context_length if budget == -1 else budget) // num_slots), context_length - 1)
    return ExecutorLimits(
        num_pages=-(-(num_tokens + 1) // config.cache.page_size),
        page_size=config.cache.page_size,
        num_slots=num_slots,
        context_length=num_tokens + 1,
        vocab_size=model.vocab_size,
    )


def measure_footprint(
    config: Config, size: ModelSize, model: DeviceModel, port: DevicePort, clock: Clock, buckets: tuple[int, ...]
) -> Footprint:
    """Compute the largest steps once. Raises RuntimeError if not even they fit."""
    limits = step_limits(config, size)
    kv = size.kv_shape.allocate(limits.num_pages + NUM_SCRATCH_PAGES, limits.page_size, port.device)
    runner = DeviceRunner(model, kv, limits, port, clock)
    prompts, decodes = _largest_steps(limits)
    step_bytes = port.peak_bytes(lambda: _run(runner, prompts))
    decode_bytes = port.peak_bytes(lambda: _run(runner, decodes))
    return Footprint(
        step_bytes=step_bytes,
        graphs_bytes=decode_bytes + len(buckets) * GRAPH_BYTES if buckets else 0,
        table_bytes=_table_bytes(config, size, limits),
    )


def _largest_steps(limits: ExecutorLimits) -> tuple[StepPlan, StepPlan]:
    """All sequences with a prompt each, then with a token each. They write to the same pages: nobody reads what comes out."""
    num_tokens, slots = limits.context_length - 1, range(limits.num_slots)
    pages = tuple(range(limits.num_pages))
    opens = tuple(
        SlotOpen(slot=slot, token_ids=(0,) * num_tokens, num_prompt_tokens=num_tokens, pages=pages, params=EVERYTHING)
        for slot in slots
    )
    prompts = tuple(StepRow(slot=slot, start=0, num_tokens=num_tokens, sample=True) for slot in slots)
    decodes = tuple(StepRow(slot=slot, start=num_tokens, num_tokens=1, sample=True) for slot in slots)
    return StepPlan(step_id=0, opens=opens, rows=prompts), StepPlan(step_id=1, rows=decodes)


def _run(runner: DeviceRunner, plan: StepPlan) -> None:
    step = runner.launch(plan, settle=lambda: None)
    step.wait()
    step.complete()


def _table_bytes(config: Config, size: ModelSize, limits: ExecutorLimits) -> int:
    """Of the batch table, for a whole context: counted on a device that has no memory."""
    context_length = config.model.context_length or size.context_length
    full = msgspec.structs.replace(limits, context_length=context_length)
    return DeviceTable(full, torch.device("meta"), scratch_page=0).size_bytes
