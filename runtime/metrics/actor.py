"""The metrics actor: keeps the server's numbers and writes the log's step lines.

Owns the throughput window; the registry is handed in and outlives it. Receives `StepStats` from the scheduler, `RequestStats`
from http, and answers `Scrape` with the exposition. Gauges show the last step, so they are at 0 when the last request is gone.
"""

from __future__ import annotations

import logging

from runtime.actors.actor import Actor, receives
from runtime.clock import Clock
from runtime.messages import RequestStats, Scrape, StepStats
from runtime.metrics.registry import Registry
from runtime.metrics.throughput import Throughput

log = logging.getLogger(__name__)


class Metrics(Actor):
    """`decode_log_interval` decode steps pass between two "Decode batch" lines; every prefill has its line."""

    def __init__(self, registry: Registry, clock: Clock, *, decode_log_interval: int) -> None:
        self._registry = registry
        self._clock = clock
        self._decode_log_interval = max(decode_log_interval, 1)
        self._throughput = Throughput()
        self._num_decode_steps = 0

    @receives(StepStats)
    async def record_step(self, stats: StepStats) -> None:
        self._registry.record_step(stats)
        if stats.num_prefill_tokens:
            _log_prefill(stats)
        if stats.num_decode_tokens:
            now = self._clock.monotonic()
            self._throughput.record(now, stats.num_decode_tokens)
            self._num_decode_steps += 1
            if self._num_decode_steps % self._decode_log_interval == 0:
                _log_decode(stats, self._throughput.rate(now))

    @receives(RequestStats)
    async def record_request(self, stats: RequestStats) -> None:
        self._registry.record_request(stats)

    @receives(Scrape)
    async def scrape(self, message: Scrape) -> bytes:
        is_idle = self._registry.num_running == 0
        self._registry.gen_throughput = 0.0 if is_idle else self._throughput.rate(self._clock.monotonic())
        return self._registry.expose()


def _log_prefill(stats: StepStats) -> None:
    log.info(
        "Prefill batch. #new-seq: %d, #new-token: %d, #cached-token: %d, token usage: %.2f, #running-req: %d, #queue-req: %d",
        stats.num_new_sequences,
        stats.num_prefill_tokens,
        stats.num_cached_tokens,
        _token_usage(stats),
        stats.num_running,
        stats.num_queued,
    )


def _log_decode(stats: StepStats, gen_throughput: float) -> None:
    log.info(
        "Decode batch. #running-req: %d, #token: %d, token usage: %.2f, gen throughput (token/s): %.2f, #queue-req: %d",
        stats.num_running,
        stats.num_used_tokens,
        _token_usage(stats),
        gen_throughput,
        stats.num_queued,
    )


def _token_usage(stats: StepStats) -> float:
    return stats.num_used_tokens / stats.num_total_tokens if stats.num_total_tokens else 0.0
