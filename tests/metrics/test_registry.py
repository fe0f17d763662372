"""The exposition has SGLang's names, labels and buckets, and its numbers add up."""

from __future__ import annotations

import pytest

from runtime.metrics.registry import Registry
from tests.metrics.conftest import Samples, ended, parse, step

GAUGES = (
    "sglang:num_running_reqs",
    "sglang:num_used_tokens",
    "sglang:token_usage",
    "sglang:gen_throughput",
    "sglang:num_queue_reqs",
    "sglang:num_grammar_queue_reqs",
    "sglang:cache_hit_rate",
    "sglang:spec_accept_length",
    "sglang:max_total_num_tokens",
    "sglang:utilization",
    "sglang:num_retracted_reqs",
)
COUNTERS = (
    "sglang:prompt_tokens_total",
    "sglang:generation_tokens_total",
    "sglang:num_requests_total",
    "sglang:num_aborted_requests_total",
    "sglang:cached_tokens_total",
    "callboard:retractions_total",
)
BUCKETS = {
    "sglang:time_to_first_token_seconds": ".1 .25 .5 .75 1 2 5 10 20 40 60 80 120 160",
    "sglang:time_per_output_token_seconds": ".005 .01 .015 .02 .025 .03 .04 .05 .075 .1 .15 .2 .3 .4 .5 .75 1 2.5",
    "sglang:e2e_request_latency_seconds": ".1 .25 .5 1 2 5 10 20 40 60 80 120 160",
    "sglang:inter_token_latency_seconds": (
        ".002 .004 .006 .008 .01 .015 .02 .025 .03 .035 .04 .06 .08 .1 .2 .4 .6 .8 1 2 4 6 8"
    ),
    "sglang:queue_time_seconds": (
        "0 .001 .005 .01 .02 .05 .1 .2 .5 1 2 3 4 5 10 15 20 30 40 50 60 70 80 90"
        " 100 200 300 400 500 600 700 800 900 1000 1200 1400 1600 1800 2000 2500 3000"
    ),
    "callboard:step_device_seconds": ".0001 .0002 .0005 .001 .002 .005 .01 .02 .05 .1 .2 .5 1 2 5",
    "callboard:step_host_seconds": ".0001 .0002 .0005 .001 .002 .005 .01 .02 .05 .1 .2 .5 1 2 5",
}


def scraped(registry: Registry) -> Samples:
    return parse(registry.expose())


def test_every_name_is_there_from_the_start_and_no_other() -> None:
    histograms = {f"{name}_{suffix}" for name in BUCKETS for suffix in ("sum", "count", "bucket")}
    names = {name.partition("{")[0] for name in scraped(Registry("the-model"))}
    assert names == {*GAUGES, *COUNTERS, *histograms}


@pytest.mark.parametrize("name", BUCKETS)
def test_buckets_are_sglangs(name: str) -> None:
    bounds = [sample for sample in scraped(Registry("the-model")) if sample.startswith(name + "_bucket{")]
    expected = [f"{name}_bucket{{{float(bound)}}}" for bound in BUCKETS[name].split()]
    assert bounds == [*expected, f"{name}_bucket{{+Inf}}"]


def test_types_are_declared_under_names_with_colons() -> None:
    lines = Registry("the-model").expose().decode().splitlines()
    assert "# TYPE sglang:num_running_reqs gauge" in lines
    assert "# TYPE sglang:prompt_tokens_total counter" in lines
    assert "# TYPE sglang:e2e_request_latency_seconds histogram" in lines
    assert 'sglang:num_running_reqs{model_name="the-model"} 0.0' in lines
    assert 'sglang:cached_tokens_total{cache_source="device",model_name="the-model"} 0.0' in lines


def test_gauges_show_the_last_step() -> None:
    registry = Registry("the-model")
    registry.record_step(step(num_running=3, num_queued=2, num_used_tokens=45, num_retracted=1))
    samples = scraped(registry)
    assert [samples[name] for name in ("sglang:num_running_reqs", "sglang:num_queue_reqs")] == [3, 2]
    assert (samples["sglang:token_usage"], samples["sglang:num_used_tokens"]) == (0.45, 45)
    assert (samples["sglang:utilization"], samples["sglang:max_total_num_tokens"]) == (0.5, 100)
    assert samples["sglang:num_retracted_reqs"] == 1
    registry.record_step(step())
    samples = scraped(registry)
    assert [samples[name] for name in GAUGES] == [0, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0]
    assert samples["callboard:retractions_total"] == 1


def test_the_hit_rate_is_of_all_prompt_tokens_since_start() -> None:
    registry = Registry("the-model")
    registry.record_step(step(num_new_prompt_tokens=30, num_cached_tokens=0))
    registry.record_step(step())
    registry.record_step(step(num_new_prompt_tokens=10, num_cached_tokens=10))
    assert scraped(registry)["sglang:cache_hit_rate"] == 0.25


def test_requests_are_counted_by_outcome() -> None:
    registry = Registry("the-model")
    registry.record_request(ended())
    registry.record_request(ended(outcome="aborted"))
    registry.record_request(ended(outcome="failed"))
    samples = scraped(registry)
    assert [samples[name] for name in COUNTERS] == [20, 10, 2, 1, 8, 0]
    assert samples["sglang:e2e_request_latency_seconds_count"] == 1


def test_latencies_fall_into_their_buckets() -> None:
    registry = Registry("the-model")
    registry.record_request(ended(e2e_s=2.0, ttft_s=1.0, num_completion_tokens=5))
    samples = scraped(registry)
    ttft, tpot = "sglang:time_to_first_token_seconds", "sglang:time_per_output_token_seconds"
    assert (samples[f"{ttft}_bucket{{0.75}}"], samples[f"{ttft}_bucket{{1.0}}"]) == (0, 1)
    assert (samples[f"{tpot}_bucket{{0.2}}"], samples[f"{tpot}_bucket{{0.3}}"], samples[f"{tpot}_sum"]) == (0, 1, 0.25)
    assert samples["sglang:inter_token_latency_seconds_count"] == 4
    assert samples["sglang:inter_token_latency_seconds_sum"] == 1.0
    assert samples["sglang:e2e_request_latency_seconds_bucket{+Inf}"] == 1


@pytest.mark.parametrize(("ttft_s", "num_completion_tokens", "num_ttft"), [(None, 0, 0), (1.0, 1, 1), (1.0, 0, 1)])
def test_a_request_without_two_tokens_has_no_time_per_token(
    ttft_s: float | None, num_completion_tokens: int, num_ttft: int
) -> None:
    registry = Registry("the-model")
    registry.record_request(ended(ttft_s=ttft_s, num_completion_tokens=num_completion_tokens))
    samples = scraped(registry)
    assert samples["sglang:time_to_first_token_seconds_count"] == num_ttft
    assert samples["sglang:time_per_output_token_seconds_count"] == 0
    assert samples["sglang:inter_token_latency_seconds_count"] == 0


def test_step_times_are_in_seconds() -> None:
    registry = Registry("the-model")
    registry.record_step(step(num_decode_tokens=1, device_us=20_000, host_us=150))
    samples = scraped(registry)
    assert samples["callboard:step_device_seconds_sum"] == 0.02
    assert samples["callboard:step_host_seconds_bucket{0.0002}"] == 1
    assert samples["callboard:step_host_seconds_bucket{0.0001}"] == 0


def test_a_report_without_tokens_is_no_step() -> None:
    registry = Registry("the-model")
    registry.record_step(step(num_prefill_tokens=3, num_running=1, num_used_tokens=16))
    registry.record_step(step(num_running=0, num_used_tokens=0))
    samples = scraped(registry)
    assert samples["callboard:step_device_seconds_count"] == 1
    assert samples["sglang:num_running_reqs"] == samples["sglang:num_used_tokens"] == 0


def test_a_label_value_may_hold_anything() -> None:
    assert b'model_name="a\\"b\\\\c\\nd"' in Registry('a"b\\c\nd').expose()


def test_waiting_is_counted_for_each_new_sequence() -> None:
    registry = Registry("the-model")
    registry.record_step(step(queue_times_s=(0.3, 2.5), num_grammar_queued=4, num_queued=6))
    samples = scraped(registry)
    assert samples["sglang:num_grammar_queue_reqs"] == 4
    assert (samples["sglang:queue_time_seconds_count"], samples["sglang:queue_time_seconds_sum"]) == (2, 2.8)
    assert samples["sglang:queue_time_seconds_bucket{1.0}"] == 1
