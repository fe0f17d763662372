"""What a device can do at best, measured: `python -m perf.roofline --device cuda --dtype bfloat16`.

Bandwidth is the better of a copy (bytes read plus bytes written) and a reading sum, in buffers far larger than any cache; the
rate is that of a large square matrix product of random numbers. No step can be faster than `least_s`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from perf.network import Work

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BUFFER_BYTES = {"cpu": 2**28, "cuda": 2**31}
PRODUCT_WIDTH = {"cpu": 2048, "cuda": 8192}
NUM_RUNS = 10


@dataclass(frozen=True, slots=True)
class Roofline:
    """`bandwidth` in bytes per second, `rate` in floating-point operations per second."""

    device: str
    dtype: str
    copy_bandwidth: float
    read_bandwidth: float
    rate: float

    @property
    def bandwidth(self) -> float:
        return max(self.copy_bandwidth, self.read_bandwidth)

    def least_s(self, work: Work) -> float:
        """Seconds that the work takes at least, if moving and computing overlap wholly."""
        return max(work.num_bytes / self.bandwidth, work.flops / self.rate)

    def __str__(self) -> str:
        copied, read, rate = self.copy_bandwidth / 1e9, self.read_bandwidth / 1e9, self.rate / 1e12
        return f"{self.device}: copies {copied:.4g} GB/s, reads {read:.4g} GB/s, multiplies {rate:.4g} TFLOP/s in {self.dtype}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.roofline", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    options = parser.parse_args()
    print(measure(torch.device(options.device), DTYPES[options.dtype]))


def measure(device: torch.device, dtype: torch.dtype) -> Roofline:
    """Takes about a second. On a CPU with the threads that torch has."""
    copied, read = _bandwidths(device)
    rate = _product_rate(device, dtype)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the buffers' memory is for what comes next
    return Roofline(_name(device), str(dtype).removeprefix("torch."), copied, read, rate)


def _bandwidths(device: torch.device) -> tuple[float, float]:
    num_bytes = BUFFER_BYTES[device.type]
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _least_s(lambda: target.copy_(source), device), num_bytes / _least_s(source.sum, device)


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    width = PRODUCT_WIDTH[device.type]
    a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    return 2.0 * width**3 / _least_s(lambda: a @ b, device)


def _least_s(work: Callable[[], object], device: torch.device) -> float:
    for _ in range(3):
        work()
    synchronize(device)
    times_s = []
    for _ in range(NUM_RUNS):
        started = time.perf_counter()
        work()
        synchronize(device)
        times_s.append(time.perf_counter() - started)
    return min(times_s)


def synchronize(device: torch.device) -> None:
    """Wait for what was started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
