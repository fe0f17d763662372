"""All numbers of the server under SGLang's metric names, in the Prometheus text format.

Owns counts, gauges and histograms as plain numbers, and turns them into metric families only when they are read: a step costs
a few additions, and no `_created` series appear. The object outlives the actor, so a restart of the actor resets no counter.
Names and buckets of the first block are SGLang 0.4.3's, those after it 0.5's; `callboard:` marks our own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from runtime.messages import RequestStats, StepStats

TTFT_BUCKETS_S = (0.1, 0.25, 0.5, 0.75, 1, 2, 5, 10, 20, 40, 60, 80, 120, 160)
E2E_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 120, 160)
TPOT_BUCKETS_S = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
INTER_TOKEN_BUCKETS_S = (
    *(0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08),
    *(0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8),
)
QUEUE_BUCKETS_S = (
    *(0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90),
    *(100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1200, 1400, 1600, 1800, 2000, 2500, 3000),
)
STEP_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
FULL_TOKEN_USAGE = 0.9
"""Token usage that SGLang calls full utilization."""


class Histogram:
    """Observations by upper bound, in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, num_times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += num_times
        self._sum += value * num_times

    def family(self, name: str, documentation: str, model_name: str) -> HistogramMetricFamily:
        buckets, total = [], 0
        for bound, count in zip((*map(str, map(float, self._bounds)), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        family = HistogramMetricFamily(name, documentation, labels=("model_name",))
        family.add_metric([model_name], buckets, self._sum)
        return family


class Registry(Collector):
    """Written by the metrics actor alone. `gen_throughput` is set by it before each scrape."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._step: StepStats | None = None
        self.gen_throughput = 0.0
        self._num_hit_tokens = 0
        self._num_hit_candidates = 0
        self._num_requests = 0
        self._num_aborted_requests = 0
        self._num_prompt_tokens = 0
        self._num_generation_tokens = 0
        self._num_cached_tokens = 0
        self._num_retractions = 0
        self._ttft = Histogram(TTFT_BUCKETS_S)
        self._tpot = Histogram(TPOT_BUCKETS_S)
        self._e2e = Histogram(E2E_BUCKETS_S)
        self._inter_token = Histogram(INTER_TOKEN_BUCKETS_S)
        self._queue = Histogram(QUEUE_BUCKETS_S)
        self._device = Histogram(STEP_BUCKETS_S)
        self._host = Histogram(STEP_BUCKETS_S)

    @property
    def num_running(self) -> int:
        return 0 if self._step is None else self._step.num_running

    def record_step(self, stats: StepStats) -> None:
        """A report without tokens is no step: the engine is idle."""
        self._step = stats
        self._num_hit_tokens += stats.num_cached_tokens
        self._num_hit_candidates += stats.num_new_prompt_tokens
        self._num_retractions += stats.num_retracted
        for queue_time_s in stats.queue_times_s:
            self._queue.observe(queue_time_s)
        if stats.num_prefill_tokens or stats.num_decode_tokens:
            self._device.observe(stats.device_us / 1e6)
            self._host.observe(stats.host_us / 1e6)

    def record_request(self, stats: RequestStats) -> None:
        """Requests that failed before they ran are no requests in SGLang's sense."""
        if stats.outcome == "failed":
            return
        self._num_requests += 1
        self._num_aborted_requests += stats.outcome == "aborted"
        self._num_prompt_tokens += stats.num_prompt_tokens
        self._num_generation_tokens += stats.num_completion_tokens
        self._num_cached_tokens += stats.num_cached_tokens
        self._record_latency(stats)

    def expose(self) -> bytes:
        """The Prometheus text exposition."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()

    def _record_latency(self, stats: RequestStats) -> None:
        if stats.ttft_s is not None:
            self._ttft.observe(stats.ttft_s)
            num_intervals = stats.num_completion_tokens - 1
            if num_intervals > 0:
                interval_s = (stats.e2e_s - stats.ttft_s) / num_intervals
                self._tpot.observe(interval_s)
                self._inter_token.observe(interval_s, num_intervals)
        if stats.outcome == "finished":
            self._e2e.observe(stats.e2e_s)

    def _gauges(self) -> Iterator[Metric]:
        step = self._step
        num_total = step.num_total_tokens if step else 0
        num_used = step.num_used_tokens if step else 0
        usage = num_used / num_total if num_total else 0.0
        hit_rate = self._num_hit_tokens / self._num_hit_candidates if self._num_hit_candidates else 0.0
        yield self._gauge("sglang:num_running_reqs", "Running requests", self.num_running)
        yield self._gauge("sglang:num_used_tokens", "Tokens in the KV cache that are in use", num_used)
        yield self._gauge("sglang:token_usage", "Used share of the KV cache, 0 to 1", usage)
        yield self._gauge("sglang:gen_throughput", "Generated tokens per second over the last seconds", self.gen_throughput)
        yield self._gauge("sglang:num_queue_reqs", "Requests in the waiting queue", step.num_queued if step else 0)
        num_grammar_queued = step.num_grammar_queued if step else 0
        yield self._gauge("sglang:num_grammar_queue_reqs", "Requests that wait for their grammar", num_grammar_queued)
        yield self._gauge("sglang:cache_hit_rate", "Share of prompt tokens found in the prefix cache since start", hit_rate)
        yield self._gauge("sglang:spec_accept_length", "Accepted length of speculative decoding; 0 without it", 0.0)
        yield self._gauge("sglang:max_total_num_tokens", "Tokens the KV cache can hold", num_total)
        yield self._gauge("sglang:utilization", "Token usage relative to the usage called full", usage / FULL_TOKEN_USAGE)
        yield self._gauge("sglang:num_retracted_reqs", "Requests retracted in the last step", step.num_retracted if step else 0)

    def _counters(self) -> Iterator[Metric]:
        yield self._counter("sglang:prompt_tokens", "Prompt tokens processed", self._num_prompt_tokens)
        yield self._counter("sglang:generation_tokens", "Tokens generated", self._num_generation_tokens)
        yield self._counter("sglang:num_requests", "Requests that ended", self._num_requests)
        yield self._counter("sglang:num_aborted_requests", "Requests that were aborted", self._num_aborted_requests)
        cached = CounterMetricFamily(
            "sglang:cached_tokens", "Prompt tokens taken from the cache", labels=("model_name", "cache_source")
        )
        cached.add_metric([self._model_name, "device"], self._num_cached_tokens)
        yield cached
        yield self._counter("callboard:retractions", "Running requests put back into the queue", self._num_retractions)

    def _histograms(self) -> Iterator[Metric]:
        yield self._histogram("sglang:time_to_first_token_seconds", "Time to the first token", self._ttft)
        yield self._histogram("sglang:time_per_output_token_seconds", "Mean time per token after the first", self._tpot)
        yield self._histogram("sglang:e2e_request_latency_seconds", "Time from arrival to end", self._e2e)
        yield self._histogram("sglang:inter_token_latency_seconds", "Time between tokens, once per token", self._inter_token)
        yield self._histogram("sglang:queue_time_seconds", "Time from arrival to the first step", self._queue)
        yield self._histogram("callboard:step_device_seconds", "Time of a step inside the model and the sampler", self._device)
        yield self._histogram("callboard:step_host_seconds", "Time of a step spent around the model", self._host)

    def _gauge(self, name: str, documentation: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, documentation, labels=("model_name",))
        family.add_metric([self._model_name], value)
        return family

    def _counter(self, name: str, documentation: str, value: int) -> Metric:
        """`name` is without the `_total` that the exposition adds."""
        family = CounterMetricFamily(name, documentation, labels=("model_name",))
        family.add_metric([self._model_name], value)
        return family

    def _histogram(self, name: str, documentation: str, histogram: Histogram) -> Metric:
        return histogram.family(name, documentation, self._model_name)
