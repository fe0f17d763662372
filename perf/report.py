"""Plots and tables from measurements: `python -m perf.report --peers peers.json --serve bench.jsonl --output-dir perf/results`.

`--peers` takes what `perf.peers --output-file` wrote: a bar chart for each kind of figure, and the table of ratios. `--serve`
takes what `perf.serve_bench --output-file` wrote: for each load, throughput and latency over the number of streams.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import orjson
from matplotlib import pyplot
from matplotlib.axes import Axes

from perf.peers import Rounds, ratio_table

COLORS = ("#1f6f8b", "#e07a5f", "#81b29a", "#f2cc8f", "#6d597a")
DOTS_PER_INCH = 130


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.report", description=__doc__)
    parser.add_argument("--peers", type=Path, help="JSON of perf.peers")
    parser.add_argument("--serve", type=Path, help="JSON lines of perf.serve_bench")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    matplotlib.use("agg")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    sections = []
    if options.peers:
        sections.append(_report_peers(orjson.loads(options.peers.read_bytes()), options.output_dir))
    if options.serve:
        rows = [orjson.loads(line) for line in options.serve.read_bytes().splitlines()]
        sections.append(_report_loads(rows, options.output_dir))
    (options.output_dir / "README.md").write_text("\n".join(sections))
    print(options.output_dir / "README.md")


def _report_peers(rounds: Rounds, folder: Path) -> str:
    num_rounds = max(map(len, rounds.values()))
    lines = [
        "# Engines side by side",
        "",
        f"Medians of {num_rounds} interleaved rounds, range in brackets. Whiskers show the range.",
        "",
        ratio_table(rounds),
    ]
    for kind, figures in _kinds(rounds).items():
        name = kind.split(",")[0].replace("/", " per ").replace(" ", "-").lower() + ".png"
        _plot_bars(rounds, kind, figures, folder / name)
        lines += ["", f"![{kind}]({name})"]
    return "\n".join([*lines, ""])


def _kinds(rounds: Rounds) -> dict[str, list[str]]:
    """Figures that differ only in the number of streams belong in one plot."""
    kinds = defaultdict(list)
    for figure in next(iter(rounds.values()))[0]:
        kinds[figure.rsplit(", ", 1)[0] if figure.endswith("streams") else figure].append(figure)
    return dict(kinds)


def _plot_bars(rounds: Rounds, kind: str, figures: list[str], path: Path) -> None:
    plot, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    width = 0.8 / len(rounds)
    for index, (name, runs) in enumerate(rounds.items()):
        places = np.arange(len(figures)) + (index - (len(rounds) - 1) / 2) * width
        values = [[run[figure] for run in runs if figure in run] or [float("nan")] for figure in figures]
        medians = [statistics.median(value) for value in values]
        spread = [
            [m - min(v) for m, v in zip(medians, values, strict=True)],
            [max(v) - m for m, v in zip(medians, values, strict=True)],
        ]
        bars = axes.bar(places, medians, width * 0.92, yerr=spread, capsize=2, label=name, color=COLORS[index % len(COLORS)])
        axes.bar_label(bars, fmt=lambda value: "" if np.isnan(value) else f"{value:.3g}", fontsize=8, padding=2)
    labels = [figure.rsplit(", ", 1)[1] if figure.endswith("streams") else "" for figure in figures]
    axes.set_xticks(range(len(figures)), labels)
    _finish(axes, kind, "log" if kind.startswith(("TTFT", "start")) else "linear")
    plot.savefig(path, dpi=DOTS_PER_INCH)
    pyplot.close(plot)


def _report_loads(rows: list[dict[str, Any]], folder: Path) -> str:
    loads = defaultdict(list)
    for row in rows:
        loads[row["dataset_name"]].append(row)
    lines = ["# Loads", ""]
    for name, runs in loads.items():
        runs.sort(key=lambda run: run["concurrency"])
        _plot_load(runs, folder / f"load-{name}.png", name)
        lines += [f"## {name}", "", _load_table(runs), "", f"![{name}](load-{name}.png)", ""]
    return "\n".join(lines)


def _plot_load(runs: list[dict[str, Any]], path: Path, title: str) -> None:
    plot, (rate, latency) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    streams = [run["concurrency"] for run in runs]
    rate.plot(streams, [run["output_tokens_per_s"] for run in runs], marker="o", color=COLORS[0])
    for index, (key, label) in enumerate((("ttft_p50_ms", "TTFT p50"), ("ttft_p99_ms", "TTFT p99"), ("itl_p50_ms", "ITL p50"))):
        latency.plot(streams, [run[key] for run in runs], marker="o", label=label, color=COLORS[index])
    for axes, name in ((rate, f"{title}: tok/s"), (latency, f"{title}: ms")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(streams, [str(count) for count in streams])
        axes.set_xlabel("streams")
        _finish(axes, name, "linear" if axes is rate else "log")
    plot.savefig(path, dpi=DOTS_PER_INCH)
    pyplot.close(plot)


def _load_table(runs: list[dict[str, Any]]) -> str:
    columns = ("concurrency", "output_tokens_per_s", "requests_per_s", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms")
    head = "| streams | tok/s | req/s | TTFT p50 ms | TTFT p99 ms | ITL p50 ms | ITL p99 ms |\n" + "|---" * len(columns) + "|\n"
    return head + "\n".join("| " + " | ".join(f"{run[column]:.4g}" for column in columns) + " |" for run in runs)


def _finish(axes: Axes, title: str, scale: str) -> None:
    axes.set_yscale(scale)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
