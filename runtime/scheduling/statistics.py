"""What the scheduler reports about its steps. An idle engine reports once, since a step's numbers are soon out of date."""

from __future__ import annotations

from runtime.executor.port import ExecutorLimits
from runtime.messages import StepDone, StepStats
from runtime.scheduling.batching import Batch, Step
from runtime.scheduling.ledger import PageLedger


class Statistics:
    """Counts what happens between two steps."""

    def __init__(self, limits: ExecutorLimits, batch: Batch, ledger: PageLedger) -> None:
        self.num_retracted = 0
        self._limits = limits
        self._batch = batch
        self._ledger = ledger
        self._is_idle = False

    def step(self, step: Step, done: StepDone, *, num_queued: int, num_grammar_queued: int) -> StepStats:
        page_size, num_retracted = self._limits.page_size, self.num_retracted
        self.num_retracted = 0
        return StepStats(
            num_prefill_tokens=step.num_prefill_tokens,
            num_decode_tokens=step.num_decode_tokens,
            num_new_sequences=len(step.opened),
            num_cached_tokens=sum([request.num_cached_tokens for request in step.opened]),
            num_new_prompt_tokens=sum([request.num_prompt_tokens for request in step.opened]),
            num_running=len(self._batch),
            num_queued=num_queued,
            num_grammar_queued=num_grammar_queued,
            num_used_tokens=(self._limits.num_pages - self._ledger.num_available_pages) * page_size,
            num_total_tokens=self._limits.num_pages * page_size,
            num_retracted=num_retracted,
            queue_times_s=tuple([max(step.planned_at - request.arrived, 0.0) for request in step.opened]),
            device_us=done.device_us,
            host_us=done.host_us,
        )

    def idle(self, is_idle: bool) -> StepStats | None:
        """A report without tokens, when the engine has become idle."""
        became_idle, self._is_idle = is_idle and not self._is_idle, is_idle
        if not became_idle:
            return None
        return self.step(Step(), StepDone(step_id=0, token_ids=()), num_queued=0, num_grammar_queued=0)
