"""The check of kernels: it passes what is right, and sees a wrong number, a race, a lost row and a kernel that can not run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
import torch

from kernels import native
from kernels.rms_norm import reference
from perf import kernel_check
from perf.kernel_check import CHECKS, TOLERANCES, check, relative_error
from perf.kernel_checks import Draw, Pair, draw_on
from runtime import extensions

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", extensions.names(CHECKS))
def test_every_check_compares_its_kernel_with_the_reference(name: str) -> None:
    module = extensions.load(CHECKS, name)
    assert set(module.DEVICES) <= {"cpu", "cuda"}
    pairs = list(islice(module.pairs(draw_on(CPU, torch.float32, 1)), 3))
    assert pairs or native.function("float_linear") is None
    assert all(relative_error(pair) < TOLERANCES[torch.float32] for pair in pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_kernel_passes_in_all_its_cases(dtype: torch.dtype) -> None:
    verdict = check("rms-norm", CPU, dtype)
    assert (verdict.problem, verdict.num_outputs) == ("", 25)
    assert verdict.worst < TOLERANCES[dtype]


def test_every_check_is_of_a_kernel() -> None:
    kernels = Path(kernel_check.__file__).parent.parent / "kernels"
    assert {name.replace("-", "_") for name in extensions.names(CHECKS)} <= {
        path.parent.name for path in kernels.glob("*/*.py")
    }


def one_kernel(monkeypatch: pytest.MonkeyPatch, pairs: Callable[[Draw], Iterator[Pair]]) -> str:
    module = SimpleNamespace(pairs=pairs, DEVICES=("cpu",))
    monkeypatch.setattr(extensions, "load", lambda package, name: module)
    return check("any", CPU, torch.float32).problem


def test_a_wrong_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def pairs(draw: Draw) -> Iterator[Pair]:
        x, weight = draw.normal(4, 100), draw.even(100)
        expected = reference.rms_norm(x, weight, 1e-5)
        yield Pair("right", expected.clone(), expected)
        wrong = expected.clone()
        wrong[2, 7] += 1e-3
        yield Pair("wrong", wrong, expected)

    assert one_kernel(monkeypatch, pairs).startswith("wrong: relative error")


def test_a_race_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter((1.0, 1.0 + 1e-6))

    def pairs(draw: Draw) -> Iterator[Pair]:
        x = draw.normal(100)
        yield Pair("racy", x * next(runs), x)

    assert one_kernel(monkeypatch, pairs) == "racy: another result for the same inputs"


def test_a_kernel_that_can_not_run_is_a_problem_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def pairs(draw: Draw) -> Iterator[Pair]:
        x = draw.normal(3)
        yield Pair("first", x, x.clone())
        raise RuntimeError("CUDA error: an illegal memory access\n  was encountered" + " at last" * 100)

    problem = one_kernel(monkeypatch, pairs)
    assert problem.startswith("RuntimeError: CUDA error: an illegal memory access was encountered at last")
    assert problem.endswith("at last")
    assert len(problem) < 350


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0])),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("inf")])),
        (torch.tensor([1.0]), torch.tensor([1.0, 1.0])),
        (torch.tensor([1.0]), torch.tensor([1.0]).double()),
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
    ],
)
def test_what_can_not_be_compared_is_infinitely_wrong(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert relative_error(Pair("", actual, expected)) == float("inf")


def test_same_infinities_are_right() -> None:
    values = torch.tensor([1.0, float("-inf"), float("nan")])
    assert relative_error(Pair("", values, values.clone())) == 0.0


def test_kernels_can_be_checked_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    kernel_check.main(["--kernel", "gather-rows", "--dtype", "float32", "--num-processes", "2"])
    assert capsys.readouterr().out.splitlines()[-1] == "1 verdicts, 0 of them wrong"


def test_a_process_that_ends_early_is_a_wrong_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kernel_check.main(["--kernel", "gather-rows", "--dtype", "float32", "--num-processes", "2", "--time-limit", "1"])
    assert "not begun: no time was left" in capsys.readouterr().out


def test_verdicts_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "verdicts.jsonl"
    kernel_check.main(["--kernel", "gather-rows", "--dtype", "bfloat16", "float32", "--output-file", str(output)])
    assert [orjson.loads(line)["dtype"] for line in output.read_bytes().splitlines()] == ["bfloat16", "float32"]
    assert capsys.readouterr().out.splitlines()[-1] == "2 verdicts, 0 of them wrong"
