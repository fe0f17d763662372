"""Compare every kernel with its reference on a device: `python -m perf.kernel_check --device cuda --dtype bfloat16`.

Prints a line for each: how many outputs were compared and the largest relative error among them, or what is wrong. Everything
is computed twice, and what differs between the two is wrong as well: a kernel that races. Exits with 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import torch
from torch import Tensor

from perf.jobs import Job, Outcome, run_job
from perf.kernel_checks import Pair, draw_on
from perf.roofline import DTYPES, synchronize
from runtime import extensions

CHECKS = "perf.kernel_checks"
KERNELS = "kernels"
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Of the Frobenius norm of the difference over that of the reference; roundings of single numbers are below half of it."""
MAX_PROBLEM = 300
LINE = "{:<20} {:>9} {:>9} {:>14}  {}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problem` is empty if the kernel is right; `worst` is the largest relative error."""

    kernel: str
    dtype: str
    num_outputs: int
    worst: float
    problem: str

    def __str__(self) -> str:
        return LINE.format(self.kernel, self.dtype, self.num_outputs, f"{self.worst:.2e}", self.problem or "as the reference")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.kernel_check", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--kernel", choices=extensions.names(CHECKS), nargs="+", default=extensions.names(CHECKS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--num-processes", type=int, default=1, help="kernels checked at a time, each in a process of its own")
    parser.add_argument("--time-limit", type=float, default=600.0, help="seconds for all of these")
    parser.add_argument("--output-file", type=Path, help="one JSON line for each verdict is added to it")
    options = parser.parse_args(arguments)
    print(LINE.format("kernel", "dtype", "outputs", "largest error", ""), flush=True)
    if options.num_processes > 1:
        verdicts = _in_processes(options)
    else:
        places = [(name, DTYPES[dtype]) for name in options.kernel for dtype in options.dtype]
        device = torch.device(options.device)
        verdicts = [verdict for name, dtype in places for verdict in _checked(name, device, dtype, options)]
    print(f"{len(verdicts)} verdicts, {sum(bool(verdict.problem) for verdict in verdicts)} of them wrong")
    if not verdicts or any(verdict.problem for verdict in verdicts):
        raise SystemExit(1)


def _in_processes(options: argparse.Namespace) -> list[Verdict]:
    """A process for each kernel: they compile side by side, and one that loses the device loses only its own."""
    deadline = time.monotonic() + options.time_limit
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.num_processes) as pool:
        jobs = [Job(name, "perf.kernel_check", _arguments(name, options), options.time_limit) for name in options.kernel]
        outcomes = pool.map(lambda job: run_job(job, Path(folder), deadline, bool), jobs)
        return [verdict for outcome in outcomes for verdict in _told(outcome, options)]


def _arguments(name: str, options: argparse.Namespace) -> tuple[str, ...]:
    return ("--device", options.device, "--kernel", name, "--seed", str(options.seed), "--dtype", *options.dtype)


def _told(outcome: Outcome, options: argparse.Namespace) -> list[Verdict]:
    """What a process wrote, and what it did not come to."""
    verdicts = [Verdict(**row) for row in outcome.rows]
    is_for_device = options.device in extensions.load(CHECKS, outcome.name).DEVICES
    if is_for_device and len(verdicts) < len(options.dtype):
        verdicts.append(Verdict(outcome.name, options.dtype[len(verdicts)], 0, 0.0, outcome.problem))
    for verdict in verdicts:
        _tell(verdict, options.output_file)
    return verdicts


def _checked(name: str, device: torch.device, dtype: torch.dtype, options: argparse.Namespace) -> list[Verdict]:
    """One verdict, or none for a kernel of other devices."""
    if device.type not in extensions.load(CHECKS, name).DEVICES:
        return []
    verdict = check(name, device, dtype, options.seed)
    _tell(verdict, options.output_file)
    return [verdict]


def _tell(verdict: Verdict, output_file: Path | None) -> None:
    print(verdict, flush=True)
    if output_file is not None:
        with output_file.open("ab") as file:
            file.write(orjson.dumps(asdict(verdict)) + b"\n")


def check(name: str, device: torch.device, dtype: torch.dtype, seed: int = 1) -> Verdict:
    """Go through all cases of the kernel called `name`; an error that it raises is the problem."""
    pairs_of = extensions.load(CHECKS, name).pairs
    worst, num_outputs, problem = 0.0, 0, ""
    try:
        for pair, again in zip(*(pairs_of(draw_on(device, dtype, seed)) for _ in range(2)), strict=True):
            synchronize(device)
            num_outputs += 1
            error = relative_error(pair)
            worst = max(worst, error)
            problem = problem or _problem(pair, again, error, dtype)
    except _errors() as error:
        problem = f"{type(error).__name__}: {_short(str(error))}"
    problem = problem or ("" if num_outputs else "nothing was compared")
    return Verdict(name, str(dtype).removeprefix("torch."), num_outputs, worst, problem)


def relative_error(pair: Pair) -> float:
    """Infinite where one side alone is not finite, shapes or types differ, or an integer is another."""
    actual, expected = pair.actual, pair.expected
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(actual, expected) else float("inf")
    wide, wanted = actual.double(), expected.double()
    if not torch.equal(wide.isfinite(), wanted.isfinite()):
        return float("inf")
    finite = wanted.isfinite()
    difference, size = (wide - wanted)[finite].norm(), wanted[finite].norm()
    return float(difference / size.clamp(min=1e-30)) if difference > 0 else 0.0


def _problem(pair: Pair, again: Pair, error: float, dtype: torch.dtype) -> str:
    tolerance = TOLERANCES[dtype]
    if not error <= tolerance:
        return f"{pair.name}: relative error {error:.2e}, allowed {tolerance:.0e}"
    if not _same_bits(pair.actual, again.actual):
        return f"{pair.name}: another result for the same inputs"
    return ""


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num()) if a.is_floating_point() else torch.equal(a, b)


def _short(text: str) -> str:
    """In one line; a compiler's message has its reason at the end."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_PROBLEM else f"{line[: MAX_PROBLEM // 2]} … {line[-MAX_PROBLEM // 2 :]}"


def _errors() -> tuple[type[Exception], ...]:
    """What a kernel raises when it can not be compiled or run."""
    common = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, ImportError, ArithmeticError)
    try:
        from triton.errors import TritonError
    except ImportError:
        return common
    return (*common, TritonError)


if __name__ == "__main__":
    main()
