"""One line of the table of steps: what was measured, and how far it is from what the device could do."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from perf.network import Network
from perf.roofline import Roofline
from perf.step_load import Kind, Timed

LINE = "{:<22} {:>8} {:>6} {:>8} {:>8} {:>10} {:>10} {:>10} {:>10} {:>10} {:>9}"
HEADINGS = LINE.format(
    *("shape", "kind", "batch", "context", "overlap", "median ms", "min ms", "device ms", "tok/s", "least ms", "roofline")
)


@dataclass(frozen=True, slots=True)
class Costs:
    """A network in the number types of one run. Bytes are those of one number; quantized weights have less than one."""

    network: Network
    weight_bytes: float
    cache_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """`context` counts the tokens before the step. `roofline` is the least possible time over the median."""

    shape: str
    kind: Kind
    batch_size: int
    context: int
    num_new: int
    overlap: bool
    median_ms: float
    min_ms: float
    device_ms: float
    tokens_per_s: float
    least_ms: float
    roofline: float

    def as_json(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)

    def __str__(self) -> str:
        length = self.context + self.num_new
        times = (f"{ms:.3f}" for ms in (self.median_ms, self.min_ms, self.device_ms))
        overlap = "on" if self.overlap else "off"
        ends = (f"{self.tokens_per_s:.0f}", f"{self.least_ms:.3f}", f"{self.roofline:.0%}")
        return LINE.format(self.shape, self.kind, self.batch_size, length, overlap, *times, *ends)


def measurement(shape: str, timed: Timed, costs: Costs, roofline: Roofline) -> Measurement:
    """What the times of a row mean on a device with this `roofline`."""
    num_rows, context, num_new = timed.sizes
    step_ms = _smooth(timed.times.step_ms, 2 if timed.overlap else 1)
    median_ms = statistics.median(step_ms)
    work = costs.network.work(*timed.sizes, weight_bytes=costs.weight_bytes, cache_bytes=costs.cache_bytes)
    least_ms = roofline.least_s(work) * 1e3
    return Measurement(
        shape=shape,
        kind=timed.kind,
        batch_size=num_rows,
        context=context,
        num_new=num_new,
        overlap=timed.overlap,
        median_ms=median_ms,
        min_ms=min(step_ms),
        device_ms=statistics.median(timed.times.device_ms),
        tokens_per_s=num_rows * num_new / median_ms * 1e3,
        least_ms=least_ms,
        roofline=least_ms / median_ms,
    )


def _smooth(times_ms: list[float], num_in_flight: int) -> list[float]:
    """Means of so many successive times: the results of plans in flight may come late and then together."""
    last = len(times_ms) - num_in_flight + 1
    return [statistics.fmean(times_ms[first : first + num_in_flight]) for first in range(last)]
