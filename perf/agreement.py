"""Whether two devices say the same: `python -m perf.agreement --device cuda --shape tiny smollm2-135m`.

Random weights are equal on all devices, so a model in float32 has to choose the same greedy token ids on a CPU and on the
device, alone and in a batch, with overlap and without. Prints a line per shape and exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from perf import shapes
from perf.static_batch import StaticBatch
from perf.target import target
from runtime.errors import CallboardError
from runtime.executor.build import build_executor
from runtime.executor.port import Executor

PROMPT_LENGTHS = [1, 17, 64, 150]
NUM_NEW = 24
MAX_TOKENS = 192


@dataclass(frozen=True, slots=True)
class Generation:
    """Token ids of the prompts side by side, and of each alone."""

    together: list[list[int]]
    alone: list[list[int]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.agreement", description=__doc__, allow_abbrev=False)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", nargs="+", choices=shapes.names(), default=["tiny", "tiny-moe", "tiny-mla", "smollm2-135m"])
    parser.add_argument("--output-file", type=Path, help="one JSON line for each shape is added to it")
    options, flags = parser.parse_known_args(arguments)
    is_wrong = False
    for shape in options.shape:
        try:
            problem = disagreement(shape, options.device, flags)
        except CallboardError as error:
            print(f"{shape}: skipped: {error}", flush=True)
            continue
        except RuntimeError as error:
            problem = f"failed: {' '.join(str(error).split())[:300]}"
        is_wrong = is_wrong or problem is not None
        if options.output_file is not None:
            with options.output_file.open("ab") as file:
                file.write(orjson.dumps({"shape": shape, "problem": problem}) + b"\n")
        print(f"{shape}: {problem or f'the same token ids as on the CPU, {sum(PROMPT_LENGTHS)} tokens in'}", flush=True)
    if is_wrong:
        raise SystemExit(1)


def disagreement(shape: str, device: str, flags: Sequence[str] = ()) -> str | None:
    """What differs first between the CPU and `device`, or between alone and together there. Raises what the executor raises."""
    expected, found = (generate(shape, [*flags, "--device", name]) for name in ("cpu", device))
    for row, length in enumerate(PROMPT_LENGTHS):
        for name, ids in (("together", found.together[row]), ("alone", found.alone[row])):
            if ids != expected.alone[row]:
                at = next(step for step, pair in enumerate(zip(ids, expected.alone[row], strict=True)) if pair[0] != pair[1])
                return f"other token ids than on the CPU for the prompt of {length} tokens, {name}, from token {at} on"
    return None


def generate(shape: str, flags: Sequence[str]) -> Generation:
    """In float32, with the server's flags."""
    num_rows = len(PROMPT_LENGTHS)
    sizes = {"context-length": MAX_TOKENS, "max-running-requests": num_rows, "max-total-tokens": num_rows * MAX_TOKENS}
    sizing = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    with target(shape, [*sizing, "--dtype", "float32", *flags]) as found:
        executor = build_executor(found.config, found.checkpoint)
        try:
            executor.warm_up()
            return asyncio.run(_generate(executor))
        finally:
            executor.stop()


async def _generate(executor: Executor) -> Generation:
    batch = StaticBatch(executor, len(PROMPT_LENGTHS), MAX_TOKENS, sum(PROMPT_LENGTHS))
    together = await batch.generate(dict(enumerate(PROMPT_LENGTHS)), NUM_NEW, 2)
    alone = [(await batch.generate({row: length}, NUM_NEW, 1))[0] for row, length in enumerate(PROMPT_LENGTHS)]
    return Generation(together, alone)


if __name__ == "__main__":
    main()
