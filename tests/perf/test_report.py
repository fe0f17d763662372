"""The report: every figure is in the table with its provenance, every kind of figure has a plot, an engine has one colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from perf import peer_rounds
from perf.peer_rounds import PeerRounds, Round, markdown
from perf.provenance import Provenance

pytest.importorskip("matplotlib", reason="plots come with the extra `perf`")

from perf import plots, report

HERE = Provenance("2026-01-02", "abc1234", "2 CPUs", "torch 2")
OURS = {"tok/s, 1 streams": 4.0, "tok/s, 8 streams": 30.0, "TTFT p50 ms, 1 streams": 9.0, "shared prefix, req/s": 3.0}
ROUNDS = PeerRounds(
    HERE,
    {
        "callboard": [
            Round(
                {"tok/s, 1 streams": 4.0, "tok/s, 8 streams": 30.0, "TTFT p50 ms, 1 streams": 9.0, "shared prefix, req/s": 3.0}
            )
        ]
        * 3,
        "other": [
            Round({"tok/s, 1 streams": 2.0, "tok/s, 8 streams": 10.0}, "the server | ended"),
            Round({"tok/s, 1 streams": 1.0}, "a request failed"),
            Round({"tok/s, 1 streams": 3.0}),
        ],
        "absent": [Round({}, "No such file")] * 3,
    },
)
LATENCIES = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms")


def test_ratios_are_of_medians_and_missing_figures_are_dashes() -> None:
    lines = markdown(ROUNDS).splitlines()
    assert lines[0] == "| | callboard | other | absent | callboard / other | callboard / absent |"
    assert lines[2] == "| tok/s, 1 stream | 4 (4–4) | 2 (1–3) | – | 2× | – |"
    assert lines[3] == "| tok/s, 8 streams | 30 (30–30) | 10 (10–10) | – | 3× | – |"
    assert lines[4].endswith("| – | – | – | – |")


def test_a_round_that_failed_is_a_row_with_its_reason() -> None:
    text = markdown(ROUNDS)
    assert "| other | 1 | the server / ended |" in text
    assert "| other | 2 | a request failed |" in text
    assert text.count("| No such file |") == 3
    assert "did not finish" not in markdown(PeerRounds(HERE, {"callboard": [Round({"a": 1.0})]}))


def test_a_reference_that_failed_leaves_the_others(tmp_path: Path) -> None:
    rounds = PeerRounds(HERE, {"callboard": [Round({}, "boom")], "other": [Round({"tok/s, 1 streams": 2.0})]})
    assert "| tok/s, 1 stream | – | 2 (2–2) | – |" in markdown(rounds)
    assert report.kinds_of(rounds) == {"tok/s": ["tok/s, 1 streams"]}


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "peers.json").write_text('{"callboard": []}')
    with pytest.raises(ValueError, match=r"perf\.peers"):
        peer_rounds.read(tmp_path / "peers.json")


def serve_rows() -> list[dict[str, Any]]:
    figures = ("output_tokens_per_s", "requests_per_s", *LATENCIES)
    return [
        {"dataset_name": "random", "concurrency": streams, "measured": str(HERE), **dict.fromkeys(figures, float(streams))}
        for streams in (1, 8)
    ]


def gpu_results() -> dict[str, Any]:
    row = {"shape": "tiny", "kind": "decode", "batch_size": 4, "overlap": True, "tokens_per_s": 9.0, "roofline": 0.5}
    return {"provenance": msgspec.to_builtins(HERE), "outcomes": [{"name": "steps-tiny", "rows": [row]}]}


def test_a_page_has_all_that_lies_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "peers.json").write_bytes(msgspec.json.encode(ROUNDS))
    (tmp_path / "serve.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in serve_rows()))
    (tmp_path / "gpu.json").write_bytes(orjson.dumps(gpu_results()))
    report.main(["--output-dir", str(tmp_path)])
    text = (tmp_path / "README.md").read_text()
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {
        "overview.png",
        "tok-per-s.png",
        "ttft-p50-ms.png",
        "shared-prefix.png",
        "load-random.png",
        "gpu-steps.png",
    }
    assert all(f"({plot})" in text for plot in drawn)
    assert text.count("2026-01-02, commit abc1234, 2 CPUs, torch 2") == 3
    assert "| other | 2 | a request failed |" in text


def test_an_empty_folder_gives_an_empty_page(tmp_path: Path) -> None:
    report.main(["--output-dir", str(tmp_path)])
    assert (tmp_path / "README.md").read_text() == report.HEADER + "\n"


def test_an_engine_has_one_colour_and_the_known_ones_differ() -> None:
    assert len(set(plots.ENGINE_COLORS.values())) == len(plots.ENGINE_COLORS)
    assert not set(plots.ENGINE_COLORS.values()) & set(plots.OTHER_COLORS)
    assert plots.color("somebody") == plots.color("somebody") in plots.OTHER_COLORS


@pytest.mark.parametrize(
    ("wanted", "kinds"),
    [
        ("higher", ("tok/s", "shared prefix, req/s", "control plane tok/s")),
        ("lower", ("TTFT p50 ms", "start to ready, s", "peak memory, MB")),
    ],
)
def test_a_title_says_what_is_better(wanted: str, kinds: tuple[str, ...]) -> None:
    assert {plots.direction(kind) for kind in kinds} == {f"{wanted} is better"}
