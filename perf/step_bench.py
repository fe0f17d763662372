"""Time steps of a static batch, no server: `python -m perf.step_bench --device cuda --shape llama-3.2-1b`.

Prints, for a decode step at each batch size and a prefill at each prompt length, the milliseconds between two results and those
inside the device, tokens per second, and the least that the device could need: weights and cached tokens read once over its
measured bandwidth, or all operations over its measured rate, whichever is longer. Steps go through the executor, sampler
included, as the scheduler drives it. What is not listed below is a flag of the server: `--device`, `--dtype`, `--num-threads`,
`--model-path`, `--disable-cuda-graph`, `--enable-deterministic-inference` and so on.

`--shape` takes files of perf/shapes, with random weights; one whose architecture is not served gets a line that says so.
`--bare` times the decoder alone, on a CPU, and `--eager` does that kernel by kernel from Python.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import orjson
import torch
from tqdm import tqdm

from kernels import native
from perf import roofline, shapes, step_load
from perf.bare_model import BareModel
from perf.measurement import HEADINGS, measurement
from perf.roofline import Roofline
from perf.static_batch import StaticBatch
from perf.step_load import Bench, StepLoad
from perf.target import PROG, Target, target
from runtime.errors import CallboardError, ConfigError
from runtime.executor.build import build_executor
from runtime.models.load import load_model


def main(arguments: Sequence[str] | None = None) -> None:
    options, flags = _parser().parse_known_args(arguments)
    load = step_load.load_of(options)
    num_measured = 0
    for shape in options.shape or [None]:
        try:
            with target(shape, [*load.flags(), *flags]) as found:
                _measure(found, load, options)
            num_measured += 1
        except CallboardError as error:
            print(f"{shape or 'model'}: skipped: {error}", flush=True)
    if num_measured == 0:
        raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", choices=shapes.names(), help="random weights of these shapes")
    step_load.add_arguments(parser)
    parser.add_argument("--zeros", action="store_true", help="decode over keys and values that are zero: no prefill before it")
    parser.add_argument("--bare", action="store_true", help="the decoder alone, on a CPU: no executor, no sampler")
    parser.add_argument("--eager", action="store_true", help="as --bare, the kernels run one by one from Python")
    parser.add_argument("--output-file", type=Path, help="one JSON line for each row is added to it")
    return parser


def _measure(found: Target, load: StepLoad, options: argparse.Namespace) -> None:
    torch.set_num_threads(found.num_threads)
    limits = roofline.measure(found.device, found.dtype)
    print(limits, HEADINGS, sep="\n", flush=True)
    if options.bare or options.eager:
        asyncio.run(_report(_bare_model(found, is_eager=options.eager), found, load, limits, options.output_file))
    else:
        asyncio.run(_drive(found, load, limits, options))


async def _drive(found: Target, load: StepLoad, limits: Roofline, options: argparse.Namespace) -> None:
    with _batch(found, load) as batch:
        if load.num_decoding and load.context and not options.zeros:
            with tqdm(desc="keys and values", unit="step", leave=False, disable=None) as progress:
                await batch.fill(load.num_decoding, load.context, progress.update)
        await _report(batch, found, load, limits, options.output_file)


@contextlib.contextmanager
def _batch(found: Target, load: StepLoad) -> Iterator[StaticBatch]:
    executor = build_executor(found.config, found.checkpoint)
    try:
        executor.warm_up()
        yield StaticBatch(executor, load.num_rows, load.max_tokens, load.max_step_tokens)
    finally:
        executor.stop()


def _bare_model(found: Target, *, is_eager: bool) -> BareModel:
    if found.device.type != "cpu":
        raise ConfigError("--bare and --eager are for a CPU; on a GPU --disable-cuda-graph shows the kernels one by one")
    model = load_model(found.checkpoint, dtype=found.config.model.dtype)
    native.set_num_threads(found.num_threads)
    torch.set_num_threads(1 if model.computes_in_kernels else found.num_threads)
    return BareModel(model, is_eager=is_eager)


async def _report(bench: Bench, found: Target, load: StepLoad, limits: Roofline, output_file: Path | None) -> None:
    costs = found.costs()
    async for timed in load.run(bench):
        row = measurement(found.name, timed, costs, limits)
        print(row, flush=True)
        if output_file is not None:
            with output_file.open("ab") as file:
                file.write(orjson.dumps({**row.as_json(), "limits": asdict(limits)}) + b"\n")


if __name__ == "__main__":
    main()
