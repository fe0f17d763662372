"""The bench of steps from its command line, on a shape that is made in no time."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import torch

from perf import roofline, shapes, step_bench


@pytest.fixture(autouse=True)
def _small_roofline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "BUFFER_BYTES", {"cpu": 2**16})
    monkeypatch.setattr(roofline, "PRODUCT_WIDTH", {"cpu": 32})


def bench(*arguments: str) -> None:
    before = torch.get_num_threads()
    try:
        step_bench.main(["--device", "cpu", "--context", "20", "--repeat", "4", *arguments])
    finally:
        torch.set_num_threads(before)


SMALL = ("--batch-size", "1", "3", "--prefill", "16", "--prefill-batch-size", "1", "2")


def test_every_row_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.jsonl"
    bench("--load-format", "dummy", "--shape", "tiny", *SMALL, "--overlap", "on", "off", "--output-file", str(output))
    rows = [orjson.loads(line) for line in output.read_bytes().splitlines()]
    assert [(row["kind"], row["batch_size"], row["overlap"]) for row in rows] == [
        ("decode", 1, True),
        ("decode", 1, False),
        ("decode", 3, True),
        ("decode", 3, False),
        ("prefill", 1, False),
        ("prefill", 2, False),
    ]
    assert all(row["shape"] == "tiny" and 0 < row["min_ms"] <= row["median_ms"] and row["roofline"] > 0 for row in rows)
    assert rows[0]["limits"]["rate"] > 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)


@pytest.mark.parametrize("flag", ["--bare", "--eager"])
def test_the_decoder_can_be_timed_alone(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench("--shape", "tiny", *SMALL, flag)
    assert len(capsys.readouterr().out.splitlines()) == 2 + 4


def test_a_shape_that_is_not_served_is_one_line_and_the_next_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = shapes.read
    other = {"tiny-moe": {"architectures": ["NoSuchForCausalLM"]}}
    monkeypatch.setattr(shapes, "read", lambda name: read(name) | other.get(name, {}))
    bench("--shape", "tiny-moe", "tiny", "--batch-size", "2", "--prefill")
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("tiny-moe: skipped: the architecture NoSuchForCausalLM is not supported")
    assert len(rest) == 3


def test_flags_of_the_server_reach_it(capsys: pytest.CaptureFixture[str]) -> None:
    bench("--shape", "tiny", "--dtype", "float32", "--batch-size", "1", "--prefill")
    assert "in float32" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench("--shape", "tiny", "--no-such-flag")
    assert "--no-such-flag" in capsys.readouterr().out


def test_a_roofline_is_the_slower_of_moving_and_computing() -> None:
    limits = roofline.Roofline("nowhere", "bfloat16", copy_bandwidth=10.0, read_bandwidth=5.0, rate=100.0)
    assert limits.least_s(roofline.Work(num_bytes=50.0, flops=100.0)) == 5.0
    assert limits.least_s(roofline.Work(num_bytes=5.0, flops=100.0)) == 1.0
