"""What metrics hear: counts and durations of steps and requests."""

from __future__ import annotations

from typing import Literal

from runtime.messages.message import Message


class StepStats(Message, frozen=True, kw_only=True):
    """Scheduler → Metrics: one finished step, or, without any tokens, that the engine is idle."""

    num_prefill_tokens: int
    num_decode_tokens: int
    num_new_sequences: int
    num_cached_tokens: int
    """Prompt tokens of the new sequences that came from the cache."""
    num_new_prompt_tokens: int
    """Prompt tokens of the new sequences, cached or not."""
    num_running: int
    num_queued: int
    num_grammar_queued: int = 0
    """Those of the queued that wait for their grammar."""
    num_used_tokens: int
    num_total_tokens: int
    num_retracted: int
    queue_times_s: tuple[float, ...] = ()
    """How long the new sequences waited, from their arrival to their first step."""
    device_us: int
    host_us: int


class RequestStats(Message, frozen=True, kw_only=True):
    """Http → Metrics: one ended request. Seconds; `None` where it never came to that."""

    outcome: Literal["finished", "failed", "aborted"]
    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int
    is_streaming: bool
    e2e_s: float
    ttft_s: float | None = None
