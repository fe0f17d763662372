"""The report: every figure is in the table, and every kind of figure has a plot."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest

from perf.peers import ratio_table

ROUNDS = {
    "callboard": [{"tok/s, 1 streams": 4.0, "tok/s, 8 streams": 30.0, "control plane tok/s, 1 streams": 9.0}] * 3,
    "other": [{"tok/s, 1 streams": 2.0, "tok/s, 8 streams": 10.0}] * 3,
}


def test_ratios_are_of_medians_and_missing_figures_are_dashes() -> None:
    lines = ratio_table(ROUNDS).splitlines()
    assert lines[0] == "| | callboard | other | callboard / other |"
    assert lines[2].endswith("| 2× |")
    assert lines[3].endswith("| 3× |")
    assert lines[4].endswith("| – | – |")


def test_a_report_has_a_plot_for_each_kind_of_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="plots come with the extra `perf`")
    from perf import report

    rows = [
        {"dataset_name": "random", "concurrency": streams}
        | dict.fromkeys(
            ("output_tokens_per_s", "requests_per_s", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms"), float(streams)
        )
        for streams in (1, 8)
    ]
    (tmp_path / "peers.json").write_bytes(orjson.dumps(ROUNDS))
    (tmp_path / "bench.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    files = ["--peers", str(tmp_path / "peers.json"), "--serve", str(tmp_path / "bench.jsonl")]
    monkeypatch.setattr(sys, "argv", ["report", *files, "--output-dir", str(tmp_path / "out")])
    report.main()
    text = (tmp_path / "out" / "README.md").read_text()
    plots = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert plots == {"tok-per-s.png", "control-plane-tok-per-s.png", "load-random.png"}
    assert all(f"({plot})" in text for plot in plots)
