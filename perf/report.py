"""Plots and a page of tables from measurements: `python -m perf.report`.

Reads, from the folder of results, `peers.json` (of `perf.peers`), `serve.jsonl` (of `perf.serve_bench`) and `gpu.json` (of
`perf.gpu_table`), each where it is there, and writes README.md and the plots beside them. Every part says when, where and at
which commit it was measured.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson

from perf import peer_rounds, plots
from perf.peer_rounds import PeerRounds

RESULTS = Path(__file__).parent / "results"
HEADER = "# Measurements\n\nWritten by `python -m perf.report` from the JSON files beside it."
Run = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    plots.use_files()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    sections = [HEADER]
    for given, name, section in (
        (options.peers, "peers.json", _peers),
        (options.serve, "serve.jsonl", _serve),
        (options.gpu, "gpu.json", _gpu),
    ):
        file = given or options.output_dir / name
        if given or file.exists():
            sections.append(section(file, options.output_dir))
    page = options.output_dir / "README.md"
    page.write_text("\n\n".join(sections) + "\n")
    print(page)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.report", description=__doc__)
    parser.add_argument("--peers", type=Path, help="JSON of perf.peers, if it lies elsewhere")
    parser.add_argument("--serve", type=Path, help="JSON lines of perf.serve_bench, if they lie elsewhere")
    parser.add_argument("--gpu", type=Path, help="JSON of perf.gpu_table, if it lies elsewhere")
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    return parser


# ---------------------------------------------------------------------------------------------------------------------
# Engines side by side


def _peers(file: Path, folder: Path) -> str:
    rounds = peer_rounds.read(file)
    lines = [
        "## Engines side by side",
        "",
        f"{rounds.provenance}. Medians of {rounds.num_rounds} interleaved rounds, the range in brackets and as whiskers.",
        "",
        peer_rounds.markdown(rounds),
    ]
    kinds = kinds_of(rounds)
    if kinds:
        plots.plot_overview(rounds, kinds, folder / "overview.png")
        lines += ["", "![all figures](overview.png)"]
    for kind, figures in kinds.items():
        plots.plot_kind(rounds, kind, figures, folder / file_name(kind))
        lines += ["", f"![{kind}]({file_name(kind)})"]
    return "\n".join(lines)


def kinds_of(rounds: PeerRounds) -> dict[str, list[str]]:
    """Figures that differ only in the number of streams belong in one plot."""
    kinds = defaultdict(list)
    for figure in rounds.figure_names():
        kinds[figure.rsplit(", ", 1)[0] if figure.endswith(" streams") else figure].append(figure)
    return dict(kinds)


def file_name(kind: str) -> str:
    """Of the plot of a kind of figure."""
    return kind.split(",")[0].replace("/", " per ").replace(" ", "-").lower() + ".png"


# ---------------------------------------------------------------------------------------------------------------------
# Loads


def _serve(file: Path, folder: Path) -> str:
    loads = defaultdict(list)
    for line in file.read_bytes().splitlines():
        run = orjson.loads(line)
        loads[run["dataset_name"]].append(run)
    lines = ["## Loads"]
    for name, runs in loads.items():
        runs.sort(key=lambda run: run["concurrency"])
        plots.plot_load(runs, folder / f"load-{name}.png", name)
        lines += ["", f"### {name}", "", f"{_measured(runs)}.", "", _load_table(runs), "", f"![{name}](load-{name}.png)"]
    return "\n".join(lines)


def _measured(runs: list[Run]) -> str:
    """When and where; one line for runs that were measured together."""
    return "; ".join(dict.fromkeys(run["measured"] for run in runs))


def _load_table(runs: list[Run]) -> str:
    columns = ("concurrency", "output_tokens_per_s", "requests_per_s", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms")
    head = "| streams | tok/s | req/s | TTFT p50 ms | TTFT p99 ms | ITL p50 ms | ITL p99 ms |\n" + "|---" * len(columns) + "|\n"
    return head + "\n".join("| " + " | ".join(f"{run[column]:.4g}" for column in columns) + " |" for run in runs)


# ---------------------------------------------------------------------------------------------------------------------
# GPU


def _gpu(file: Path, folder: Path) -> str:
    """The table lies beside it as Markdown; here are its plot and a link."""
    results = orjson.loads(file.read_bytes())
    rows = [row for outcome in results["outcomes"] if outcome["name"].startswith("steps-") for row in outcome["rows"]]
    shown = [row for row in rows if row["kind"] == "prefill" or row["overlap"]]
    measured = results["provenance"]
    where = ", ".join((measured["date"], f"commit {measured['commit']}", measured["machine"], measured["versions"]))
    lines = ["## GPU", "", f"{where}. [The whole table]({file.stem}.md)."]
    if shown:
        plots.plot_roofline(shown, folder / "gpu-steps.png", "steps, tok/s and share of the roofline")
        lines += ["", "![steps beside the roofline](gpu-steps.png)"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
