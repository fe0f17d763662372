"""What a run of samples amounts to. Percentiles are over raw events, never over averages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perf.load import Sample


@dataclass(frozen=True)
class Summary:
    """Rates are per second of wall time between the first request sent and the last ended; latencies in milliseconds."""

    num_requests: int
    num_errors: int
    duration_s: float
    output_tokens_per_s: float
    requests_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    steady_ms: float
    """Between two tokens of a stream while all requests of the run decode; NaN if they never all do."""


def summarize(samples: list[Sample]) -> Summary:
    """Raises `ValueError` if no request succeeded."""
    good = [sample for sample in samples if sample.error is None]
    if not good:
        raise ValueError(f"every request failed, the first with: {samples[0].error if samples else 'nothing sent'}")
    duration_s = max(sample.ended for sample in good) - min(sample.sent for sample in good)
    gaps = np.concatenate([np.diff(sample.events) for sample in good])
    ttft = np.array([sample.ttft_s for sample in good])
    return Summary(
        num_requests=len(samples),
        num_errors=len(samples) - len(good),
        duration_s=duration_s,
        output_tokens_per_s=sum(sample.num_tokens for sample in good) / duration_s,
        requests_per_s=len(good) / duration_s,
        ttft_p50_ms=_percentile_ms(ttft, 50),
        ttft_p99_ms=_percentile_ms(ttft, 99),
        tpot_p50_ms=_percentile_ms(np.array([sample.tpot_s for sample in good]), 50),
        itl_p50_ms=_percentile_ms(gaps, 50),
        itl_p99_ms=_percentile_ms(gaps, 99),
        steady_ms=_steady_s(good) * 1e3,
    )


def _steady_s(samples: list[Sample]) -> float:
    """An event may bring several tokens, so it counts for as many as its request has on average."""
    start, end = max(sample.events[0] for sample in samples), min(sample.events[-1] for sample in samples)
    num_tokens = sum(
        sum(start < event <= end for event in sample.events) * sample.num_tokens / len(sample.events) for sample in samples
    )
    return (end - start) * len(samples) / num_tokens if end > start and num_tokens else float("nan")


def _percentile_ms(seconds: np.ndarray, percent: float) -> float:
    return float(np.percentile(seconds, percent)) * 1e3 if seconds.size else float("nan")
