"""What a run of samples amounts to, from samples whose times are known."""

from __future__ import annotations

import math

import pytest

from perf.load import Sample
from perf.summary import summarize


def sample(first: float, gap: float, num_tokens: int, tokens_per_event: int = 1) -> Sample:
    events = [first + gap * step for step in range(num_tokens // tokens_per_event)]
    return Sample(sent=first - 0.5, events=events, ended=events[-1], num_tokens=num_tokens)


def test_a_steady_run_is_measured_while_all_streams_decode() -> None:
    """The first stream is slow while the second one's prompt is computed, which is not steady."""
    slow = Sample(sent=0.0, events=[1.0, 3.0, 5.0, 5.1, 5.2, 5.3, 5.4, 5.5], ended=5.5, num_tokens=8)
    other = Sample(sent=0.0, events=[5.0, 5.1, 5.2, 5.3, 5.4, 5.5, 5.6, 5.7], ended=5.7, num_tokens=8)
    assert summarize([slow, other]).steady_ms == pytest.approx(100)


def test_events_that_bring_several_tokens_count_for_as_many() -> None:
    samples = [sample(1.0, 0.2, 40, tokens_per_event=2) for _ in range(3)]
    assert summarize(samples).steady_ms == pytest.approx(100)


def test_requests_one_after_the_other_are_never_steady() -> None:
    summary = summarize([sample(1.0, 0.1, 10), sample(3.0, 0.1, 10)])
    assert math.isnan(summary.steady_ms)
    assert summary.tpot_p50_ms == pytest.approx(100)
    assert summary.itl_p50_ms == pytest.approx(100)


def test_a_run_of_errors_measures_nothing() -> None:
    with pytest.raises(ValueError, match="no luck"):
        summarize([Sample(sent=0.0, error="no luck")])
