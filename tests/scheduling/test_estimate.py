from __future__ import annotations

import pytest

from runtime.scheduling.estimate import MAX_EXPECTED_TOKENS, NUM_DECAY_STEPS, NeedEstimate
from tests.scheduling.conftest import make_request


def test_the_ratio_falls_to_a_share_of_where_it_began() -> None:
    estimate = NeedEstimate(1.0)
    assert estimate.ratio == pytest.approx(0.7)
    for _ in range(NUM_DECAY_STEPS // 2):
        estimate.step()
    assert estimate.ratio == pytest.approx((0.7 + 0.7 * 0.14) / 2)
    for _ in range(NUM_DECAY_STEPS):
        estimate.step()
    assert estimate.ratio == pytest.approx(0.7 * 0.14)


def test_conservativeness_scales_the_ratio_up_to_all() -> None:
    assert NeedEstimate(0.5).ratio == pytest.approx(0.35)
    assert NeedEstimate(3.0).ratio == 1.0


def test_a_retraction_raises_the_ratio_and_never_lowers_it() -> None:
    estimate = NeedEstimate(0.1)
    running = [make_request(1, [1], max_new_tokens=100)]
    running[0].output_ids += [5] * 30
    estimate.retracted(running)
    assert estimate.ratio == pytest.approx(0.5)  # 30 generated and 20 to come, of 100
    estimate.retracted([make_request(2, [1], max_new_tokens=1000)])
    assert estimate.ratio == pytest.approx(0.5)
    estimate.retracted([make_request(3, [1], max_new_tokens=1)])
    assert estimate.ratio == 1.0


def test_growth_counts_what_may_still_come_up_to_a_bound() -> None:
    estimate = NeedEstimate(1.0)
    request = make_request(1, [1], max_new_tokens=10)
    request.output_ids += [5] * 4
    assert estimate.growth_tokens(request) == pytest.approx(0.7 * 6)
    endless = make_request(2, [1], max_new_tokens=10**6)
    assert estimate.growth_tokens(endless) == pytest.approx(0.7 * MAX_EXPECTED_TOKENS)
