"""Tokens per second over a window that moves with the clock."""

from __future__ import annotations

import pytest

from runtime.metrics.throughput import Throughput


def record_steadily(window: Throughput, *, start_s: float, end_s: float, period_s: float, num_tokens: int) -> None:
    for step in range(round((end_s - start_s) / period_s) + 1):
        window.record(start_s + step * period_s, num_tokens)


@pytest.mark.parametrize("duration_s", [1.0, 4.0, 20.0])
def test_a_steady_rate_is_the_rate(duration_s: float) -> None:
    window = Throughput(5.0)
    record_steadily(window, start_s=100.0, end_s=100.0 + duration_s, period_s=0.25, num_tokens=8)
    assert window.rate(100.0 + duration_s) == pytest.approx(32.0, rel=0.06)


def test_nothing_is_zero() -> None:
    window = Throughput(5.0)
    assert window.rate(0.0) == 0.0
    window.record(10.0, 100)
    assert window.rate(10.0) == 0.0


def test_a_pause_is_forgotten() -> None:
    window = Throughput(5.0)
    record_steadily(window, start_s=0.0, end_s=5.0, period_s=0.5, num_tokens=10)
    assert window.rate(11.0) == 0.0
    window.record(1000.0, 10)
    window.record(1001.0, 10)
    assert window.rate(1001.0) == 10.0


def test_the_rate_falls_after_the_last_token() -> None:
    window = Throughput(5.0)
    record_steadily(window, start_s=0.0, end_s=5.0, period_s=0.5, num_tokens=10)
    rates = [window.rate(5.0 + later) for later in range(6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]
