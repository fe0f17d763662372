"""The table of a GPU: what it runs, what it makes of the figures, and that a missing one is a row with its reason."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from perf import gpu_table, provenance
from perf.gpu_report import Results, markdown, overhead_ms
from perf.gpu_table import jobs_of
from perf.jobs import Job, Outcome
from perf.provenance import Provenance

MAIN = "llama-3.1-8b"
LIMITS = {"copy_bandwidth": 4.3e12, "read_bandwidth": 4e12, "rate": 788e12, "dtype": "bfloat16"}


def step(kind: str, batch_size: int, median_ms: float, *, overlap: bool = True, tokens_per_s: float = 1.0) -> dict[str, Any]:
    return {
        "kind": kind,
        "batch_size": batch_size,
        "context": 1024,
        "num_new": 1,
        "overlap": overlap,
        "median_ms": median_ms,
        "device_ms": median_ms,
        "tokens_per_s": tokens_per_s,
        "least_ms": 1.0,
        "roofline": 1.0 / median_ms,
        "limits": LIMITS,
    }


def served(concurrency: int, tpot_ms: float | None, steady_ms: float | None) -> dict[str, Any]:
    return {
        "concurrency": concurrency,
        "tpot_p50_ms": tpot_ms,
        "steady_ms": steady_ms,
        "output_tokens_per_s": 1.0,
        "ttft_p50_ms": 1.0,
        "num_errors": 0,
    }


def outcome(name: str, *rows: dict[str, Any], problem: str = "", last_lines: tuple[str, ...] = ()) -> Outcome:
    return Outcome(name, f"python -m {name}", 1.0, list(rows), problem, list(last_lines))


def results(*outcomes: Outcome) -> Results:
    return Results(Provenance("2026-01-02", "abc", "NVIDIA H200", "torch 2"), "llama-3.1-8b", "small", 1024, list(outcomes))


def lines_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


FULL = results(
    outcome("kernels", {"kernel": "rope", "dtype": "bfloat16", "num_outputs": 3, "worst": 1e-3, "problem": ""}),
    outcome(
        f"steps-{MAIN}",
        step("decode", 1, 4.0, tokens_per_s=250.0),
        step("decode", 64, 8.0, tokens_per_s=8_000.0),
        step("decode", 256, 16.0, tokens_per_s=16_000.0),
        step("prefill", 1, 30.0, overlap=False, tokens_per_s=34_000.0),
    ),
    outcome(f"server-{MAIN}", served(1, 4.1, None), served(256, 99.0, 16.4)),
    outcome("steps-small", step("decode", 1, 1.0), step("decode", 1, 1.2, overlap=False)),
    outcome(
        f"deterministic-{MAIN}", step("decode", 1, 4.4), step("decode", 256, 24.0), step("prefill", 1, 90.0, overlap=False)
    ),
    outcome("steps-moe", problem="exit code 1: moe: skipped: not supported"),
)


def test_what_was_asked_is_compared_with_what_was_measured() -> None:
    table = lines_of(markdown(FULL), "| ")
    assert table[1:10] == [
        "| decode, batch 1 | 250 tok/s | ≥ 220 tok/s | met |",
        "| decode, batch 64 | 8,000 tok/s | ≥ 9,000 tok/s | missed |",
        "| decode, batch 256 | 16,000 tok/s | ≥ 15,000 tok/s | met |",
        "| prefill | 34,000 tok/s | ≥ 33,000 tok/s | met |",
        "| server over the bare step, 1 stream | 0.1 ms a token | ≤ 0.15 ms a token | met |",
        "| server over the bare step, 256 streams | 2.5 % | ≤ 5 % | met |",
        "| overlap off / on, batch 1, small shape | 1.2 × | ≥ 1.1 × | met |",
        "| deterministic mode costs at most | 50 % | ≤ 35 % | missed |",
        table[9],
    ]


def test_another_model_or_machine_is_not_judged() -> None:
    other = dataclasses.replace(FULL, provenance=Provenance("2026-01-02", "abc", "4 CPUs", "torch 2"))
    assert "| decode, batch 1 | 250 tok/s | ≥ 220 tok/s |  |" in markdown(other)
    assert "| met |" not in markdown(dataclasses.replace(FULL, main_shape="small"))


def test_a_program_that_failed_leaves_a_reason_and_no_figure() -> None:
    broken = results(
        outcome(f"steps-{MAIN}", problem="exit code 1: boom"), outcome("steps-small", last_lines=("x: skipped: y",))
    )
    text = markdown(broken)
    assert "| decode, batch 1 | not measured | ≥ 220 tok/s |  |" in text
    assert "- steps-llama-3.1-8b: exit code 1: boom (`python -m steps-llama-3.1-8b`)" in text
    assert "- steps-small: x: skipped: y" in text
    assert "## What is missing" in markdown(FULL)
    assert "## What is missing" not in markdown(results(outcome("steps-small", step("decode", 1, 1.0))))


@pytest.mark.parametrize("rows", [(), (served(256, None, None),)])
def test_what_the_server_adds_is_unknown_without_both_figures(rows: tuple[dict[str, Any], ...]) -> None:
    assert (
        overhead_ms(results(outcome(f"steps-{MAIN}", step("decode", 256, 16.0)), outcome(f"server-{MAIN}", *rows)), 256) is None
    )
    assert overhead_ms(results(outcome(f"server-{MAIN}", served(256, 1.0, 17.0))), 256) is None


def options(*arguments: str) -> Any:
    return gpu_table._parser().parse_args(arguments)


def test_kernels_come_first_and_every_shape_is_there_once() -> None:
    names = [job.name for job in jobs_of(options())]
    assert names[:4] == ["kernels", "agreement", f"steps-{MAIN}", f"server-{MAIN}"]
    assert {"steps-llama-3.2-1b", f"deterministic-{MAIN}", "steps-qwen3-30b-a3b", "steps-deepseek-v2-lite"} <= set(names)
    assert len(names) == len(set(names))
    same = jobs_of(options("--main-shape", "tiny", "--overlap-shape", "tiny", "--other-shape"))
    assert [job.name for job in same] == ["kernels", "agreement", "steps-tiny", "server-tiny", "deterministic-tiny"]


def test_a_table_is_written_although_one_program_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [Job(f"steps-{deed}", "tests.perf.fake_program", (deed,), 30.0) for deed in ("fail", "work")]
    monkeypatch.setattr(gpu_table, "jobs_of", lambda _: jobs)
    gpu_table.main(["--output-dir", str(tmp_path), "--name", "trial"])
    written = orjson.loads((tmp_path / "trial.json").read_bytes())
    assert [found["problem"] for found in written["outcomes"]] == ["exit code 1: no luck", ""]
    assert "- steps-fail: exit code 1: no luck" in (tmp_path / "trial.md").read_text()
    assert "[2/2] steps-work" in capsys.readouterr().out


def test_steps_of_a_small_shape_are_measured_on_a_cpu(tmp_path: Path) -> None:
    sizes = ["--batch-size", "1", "2", "--context", "20", "--prefill-batch-size", "1", "--repeat", "4"]
    shape = ["--device", "cpu", "--main-shape", "tiny", "--only", "steps-tiny", "--output-dir", str(tmp_path)]
    gpu_table.main([*shape, *sizes])
    (program,) = orjson.loads((tmp_path / "gpu.json").read_bytes())["outcomes"]
    assert program["problem"] == ""
    assert [(row["kind"], row["batch_size"], row["overlap"]) for row in program["rows"]] == [
        *(("decode", batch_size, overlap) for batch_size in (1, 2) for overlap in (True, False)),
        ("prefill", 1, False),
    ]


def test_the_commit_is_that_of_the_folder(tmp_path: Path) -> None:
    assert provenance.commit(tmp_path) == "unknown"
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "first")):
        subprocess.run([*git, *command], check=True)
    revision = provenance.commit(tmp_path)
    assert len(revision) >= 7
    assert not revision.endswith("+")
    (tmp_path / "file").write_text("a")
    subprocess.run([*git, "add", "file"], check=True)
    assert provenance.commit(tmp_path) == f"{revision}+"
