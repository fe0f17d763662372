"""Everything that is measured on a GPU, in one command: `python -m perf.gpu_table`.

Kernels against their references, token ids against the CPU's, steps of all shapes, the server over them. Each is a program of
its own: what fails is said and costs the others nothing. What there is no time for within `--time-limit` is left out, the most
important coming first. Writes NAME.json and NAME.md into the folder of results, after each program anew.

`--device cpu --main-shape tiny --overlap-shape tiny --other-shape` tries all of it on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from perf import gpu_report, provenance, shapes
from perf.jobs import ROOT, Job, Outcome, run_job
from runtime.executor.thread_count import num_usable_cores

RESULTS = ROOT / "perf" / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    jobs = [job for job in jobs_of(options) if options.only is None or job.name in options.only]
    deadline = time.monotonic() + options.time_limit
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, job in enumerate(jobs):
            print(f"[{number + 1}/{len(jobs)}] {job.name}, {deadline - time.monotonic():.0f} s left", flush=True)
            outcomes.append(run_job(job, Path(folder), deadline, lambda line: print(f"    {line}", flush=True)))
            print(f"    {outcomes[-1].problem or 'done'}, {outcomes[-1].seconds:.1f} s", flush=True)
            _write(outcomes, options)
    print((options.output_dir / f"{options.name}.md").read_text())
    if all(outcome.problem for outcome in outcomes):
        raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m perf.gpu_table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = shapes.names()
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the command")
    parser.add_argument("--main-shape", choices=names, default="llama-3.1-8b", help="everything is measured with this one")
    parser.add_argument("--overlap-shape", choices=names, default="llama-3.2-1b", help="small, so that the host's time shows")
    parser.add_argument("--other-shape", choices=names, nargs="*", default=["qwen3-30b-a3b", "deepseek-v2-lite"])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--context", type=int, default=1024, help="tokens of a sequence that decodes, and of a prompt")
    parser.add_argument("--prefill-batch-size", type=int, nargs="+", default=[1, 8], help="prompts in a step")
    parser.add_argument("--repeat", type=int, default=40, help="decode steps of each row")
    parser.add_argument("--random-output-len", type=int, default=256, help="tokens of an answer of the server")
    parser.add_argument("--time-limit", type=float, default=480.0, help="seconds for everything")
    parser.add_argument("--only", nargs="+", metavar="JOB", help="some of: kernels agreement steps-SHAPE server-SHAPE …")
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    parser.add_argument("--name", default="gpu", help="of the files that are written")
    return parser


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """The most important first, but for what shows whether the rest means anything."""
    main_shape, device = options.main_shape, ("--device", options.device)
    both, overlapped = ("--overlap", "on", "off"), ("--overlap", "on")
    processes = ("--num-processes", str(min(8, num_usable_cores())), "--time-limit", "140")
    deterministic = "--enable-deterministic-inference"
    jobs = [
        Job("kernels", "perf.kernel_check", (*device, "--dtype", "bfloat16", *processes), 150),
        Job("agreement", "perf.agreement", (*device, "--shape", "tiny", "tiny-moe", "tiny-mla"), 60),
        Job(f"steps-{main_shape}", "perf.step_bench", _steps(main_shape, options, *both), 150),
        Job(f"server-{main_shape}", "perf.server_load", _server(options), 150),
        Job(f"steps-{options.overlap_shape}", "perf.step_bench", _steps(options.overlap_shape, options, *both), 90),
        Job(f"deterministic-{main_shape}", "perf.step_bench", _steps(main_shape, options, *overlapped, deterministic), 120),
    ]
    jobs += [Job(f"steps-{name}", "perf.step_bench", _steps(name, options, *overlapped), 120) for name in options.other_shape]
    return list({job.name: job for job in jobs}.values())


def _steps(shape: str, options: argparse.Namespace, *more: str) -> tuple[str, ...]:
    return (
        *("--device", options.device, "--load-format", "dummy", "--shape", shape),
        *("--batch-size", *map(str, options.batch_size), "--context", str(options.context)),
        *("--prefill", str(options.context), "--prefill-batch-size", *map(str, options.prefill_batch_size)),
        *("--repeat", str(options.repeat), "--fill-tokens", str(8 * options.context), *more),
    )


def _server(options: argparse.Namespace) -> tuple[str, ...]:
    streams = (min(options.batch_size), max(options.batch_size))
    return (
        *("--device", options.device, "--shape", options.main_shape, "--context", str(options.context)),
        *("--max-concurrency", *map(str, streams), "--random-output-len", str(options.random_output_len)),
    )


def _write(outcomes: list[Outcome], options: argparse.Namespace) -> None:
    options.output_dir.mkdir(parents=True, exist_ok=True)
    found = provenance.of_machine(options.device)
    results = gpu_report.Results(found, options.main_shape, options.overlap_shape, options.context, outcomes)
    (options.output_dir / f"{options.name}.json").write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))
    (options.output_dir / f"{options.name}.md").write_text(gpu_report.markdown(results))


if __name__ == "__main__":
    main()
