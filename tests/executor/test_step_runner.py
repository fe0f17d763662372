"""What a step reports about its time, and the rehearsal."""

from __future__ import annotations

import msgspec
import pytest

from runtime.executor.step_runner import StepRunner
from runtime.executor.warm_up import rehearsal_limits, rehearsal_plans
from runtime.messages import StepDone
from tests.executor.toy_model import LIMITS, ToyModel, first_plan, make_kv


class StepClock:
    """Only the model takes time."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now

    def wall(self) -> float:
        return self.now


def test_time_is_split_between_device_and_host() -> None:
    clock, model = StepClock(), ToyModel()
    model.hooks.append(lambda: setattr(clock, "now", clock.now + 0.25))
    result = StepRunner(model, make_kv(), LIMITS, clock).run(first_plan())
    assert isinstance(result, StepDone)
    assert (result.device_us, result.host_us) == (251_000, 2_000)


@pytest.mark.parametrize(("num_slots", "context_length", "page_size"), [(256, 8192, 16), (1, 64, 16), (3, 3, 1), (2, 2, 1)])
def test_a_rehearsal_fits_any_limits(num_slots: int, context_length: int, page_size: int) -> None:
    limits = msgspec.structs.replace(
        LIMITS,
        num_slots=num_slots,
        context_length=context_length,
        page_size=page_size,
        num_pages=-(-context_length // page_size),
    )
    small = rehearsal_limits(limits)
    assert small.num_pages <= limits.num_pages, "other ranks rehearse in the pages of the steps"
    assert small.context_length <= limits.context_length
    assert small.num_slots <= limits.num_slots
    runner = StepRunner(ToyModel(small), make_kv(small), small, StepClock())
    results = [runner.run(plan) for plan in rehearsal_plans(small)]
    assert all(isinstance(result, StepDone) for result in results), results
