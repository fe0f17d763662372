"""What the programs of `perf.gpu_table` found, as Markdown: what was asked for and reached first, then every row, then what is
missing and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from perf.jobs import Outcome
from perf.provenance import Provenance

Row = dict[str, Any]
NOT_MEASURED = "not measured"
ASKED_SHAPE = "llama-3.1-8b"


@dataclass(frozen=True, slots=True)
class Results:
    """All of one run; written as JSON as it is."""

    provenance: Provenance
    main_shape: str
    overlap_shape: str
    context: int
    outcomes: list[Outcome]

    def rows(self, job: str) -> list[Row]:
        """The figures of a program, none if it did not run."""
        return next((outcome.rows for outcome in self.outcomes if outcome.name == job), [])

    def step(self, job: str, kind: str, batch_size: int, *, overlap: bool) -> Row | None:
        """One row of a program that times steps."""
        key = (kind, batch_size, overlap)
        found = (row for row in self.rows(job) if (row["kind"], row["batch_size"], row["overlap"]) == key)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Target:
    """`find` gives the figure, or None where a part of it is missing. More is better unless `is_limit`."""

    name: str
    asked: float
    unit: str
    find: Callable[[Results], float | None]
    is_limit: bool = False


def markdown(results: Results) -> str:
    """The whole report."""
    parts = [f"# GPU figures\n\n{results.provenance}.", _asked(results), _steps(results), _server(results)]
    parts += [_kernels(results), _missing(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# What was asked for


def _decode_rate(batch_size: int) -> Callable[[Results], float | None]:
    def find(results: Results) -> float | None:
        row = results.step(f"steps-{results.main_shape}", "decode", batch_size, overlap=True)
        return None if row is None else float(row["tokens_per_s"])

    return find


def _prefill_rate(results: Results) -> float | None:
    rows = [row for row in results.rows(f"steps-{results.main_shape}") if row["kind"] == "prefill"]
    return max((float(row["tokens_per_s"]) for row in rows), default=None)


def overhead_ms(results: Results, streams: int) -> float | None:
    """Milliseconds that a token takes longer in a stream of the server than in a bare step of as many sequences."""
    bare = results.step(f"steps-{results.main_shape}", "decode", streams, overlap=True)
    served = next((row for row in results.rows(f"server-{results.main_shape}") if row["concurrency"] == streams), None)
    token_ms = None if served is None else _token_ms(served)
    return None if bare is None or token_ms is None else token_ms - float(bare["median_ms"])


def _token_ms(served: Row) -> float | None:
    """Streams one after the other are never steady; nothing disturbs them."""
    found = served["tpot_p50_ms"] if served["concurrency"] == 1 else served["steady_ms"]
    return None if found is None else float(found)


def _relative_overhead(streams: int) -> Callable[[Results], float | None]:
    def find(results: Results) -> float | None:
        added = overhead_ms(results, streams)
        bare = results.step(f"steps-{results.main_shape}", "decode", streams, overlap=True)
        return None if added is None or bare is None else added / float(bare["median_ms"]) * 100

    return find


def _overlap_gain(results: Results) -> float | None:
    on, off = (results.step(f"steps-{results.overlap_shape}", "decode", 1, overlap=overlap) for overlap in (True, False))
    return None if on is None or off is None else float(off["median_ms"]) / float(on["median_ms"])


def _deterministic_cost(results: Results) -> float | None:
    """Of the batch size where it is largest."""
    costs = []
    for row in results.rows(f"deterministic-{results.main_shape}"):
        plain = results.step(f"steps-{results.main_shape}", row["kind"], row["batch_size"], overlap=row["overlap"])
        if plain is not None and row["kind"] == "decode":
            costs.append(float(row["median_ms"]) / float(plain["median_ms"]) * 100 - 100)
    return max(costs, default=None)


TARGETS = (
    Target("decode, batch 1", 220, "tok/s", _decode_rate(1)),
    Target("decode, batch 64", 9_000, "tok/s", _decode_rate(64)),
    Target("decode, batch 256", 15_000, "tok/s", _decode_rate(256)),
    Target("prefill", 33_000, "tok/s", _prefill_rate),
    Target("server over the bare step, 1 stream", 0.15, "ms a token", lambda results: overhead_ms(results, 1), is_limit=True),
    Target("server over the bare step, 256 streams", 5, "%", _relative_overhead(256), is_limit=True),
    Target("overlap off / on, batch 1, small shape", 1.1, "×", _overlap_gain),
    Target("deterministic mode costs at most", 35, "%", _deterministic_cost, is_limit=True),
)


def _asked(results: Results) -> str:
    title = f"## Asked for\n\nOf {ASKED_SHAPE} on one H200. Here: {results.main_shape}, {results.context} tokens of context."
    lines = [f"{title} Small shape: {results.overlap_shape}.\n", "| | measured | asked | |", "|---|---|---|---|"]
    for target in TARGETS:
        found = target.find(results)
        sign = "≤" if target.is_limit else "≥"
        asked = f"{sign} {target.asked:,g} {target.unit}"
        lines.append(f"| {target.name} | {_figure(found, target.unit)} | {asked} | {_verdict(target, found, results)} |")
    return "\n".join(lines)


def _figure(found: float | None, unit: str) -> str:
    if found is None:
        return NOT_MEASURED
    return f"{found:,.0f} {unit}" if found >= 1000 else f"{found:.4g} {unit}"


def _verdict(target: Target, found: float | None, results: Results) -> str:
    """None for another model or machine than the one that was meant."""
    if found is None or results.main_shape != ASKED_SHAPE or "H200" not in results.provenance.machine:
        return ""
    return "met" if (found <= target.asked if target.is_limit else found >= target.asked) else "missed"


# ---------------------------------------------------------------------------------------------------------------------
# Every row


def _steps(results: Results) -> str:
    programs = [outcome for outcome in results.outcomes if outcome.rows and "limits" in outcome.rows[0]]
    if not programs:
        return ""
    limits = programs[0].rows[0]["limits"]
    copied, read = (f"{limits[name] / 1e9:,.0f} GB/s" for name in ("copy_bandwidth", "read_bandwidth"))
    lines = [
        "## Steps\n",
        f"Measured first: copies {copied}, reads {read}, multiplies {limits['rate'] / 1e12:,.4g} TFLOP/s in {limits['dtype']}."
        " The last column is the least possible time over the median.\n",
        "| program | kind | batch | tokens | overlap | median ms | device ms | tok/s | least ms | of the roofline |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_step_line(outcome.name, row) for outcome in programs for row in outcome.rows)])


def _step_line(program: str, row: Row) -> str:
    length, overlap = row["context"] + row["num_new"], "on" if row["overlap"] else "off"
    cells = [
        program,
        row["kind"],
        row["batch_size"],
        length,
        overlap,
        *(f"{row[key]:.3f}" for key in ("median_ms", "device_ms")),
    ]
    cells += [f"{row['tokens_per_s']:,.0f}", f"{row['least_ms']:.3f}", f"{row['roofline']:.0%}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def _server(results: Results) -> str:
    rows = results.rows(f"server-{results.main_shape}")
    if not rows:
        return ""
    lines = [
        "## Server\n",
        "| streams | ms a token | over the bare step, ms | tok/s | TTFT p50 ms | errors |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        token_ms, added = _token_ms(row), overhead_ms(results, row["concurrency"])
        cells = (*(NOT_MEASURED if value is None else f"{value:.3f}" for value in (token_ms, added)),)
        rates = (f"{row['output_tokens_per_s']:,.0f}", f"{row['ttft_p50_ms']:,.1f}")
        lines.append(f"| {row['concurrency']} | {' | '.join((*cells, *rates))} | {row['num_errors']} |")
    return "\n".join(lines)


def _kernels(results: Results) -> str:
    rows = results.rows("kernels")
    if not rows:
        return ""
    lines = [
        "## Kernels beside their references\n",
        "| kernel | dtype | outputs | largest relative error | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        verdict = row["problem"] or "right"
        lines.append(f"| {row['kernel']} | {row['dtype']} | {row['num_outputs']} | {row['worst']:.1e} | {verdict} |")
    return "\n".join(lines)


def _missing(results: Results) -> str:
    lines = list(_problems(results))
    return "\n".join(["## What is missing\n", *lines]) if lines else ""


def _problems(results: Results) -> Iterator[str]:
    for outcome in results.outcomes:
        if outcome.problem:
            yield f"- {outcome.name}: {outcome.problem} (`{outcome.command}`)"
        for line in outcome.last_lines:
            if ": skipped: " in line and line not in outcome.problem:
                yield f"- {outcome.name}: {line}"
