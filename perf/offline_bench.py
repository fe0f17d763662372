"""Throughput of the in-process engine, no HTTP: `python -m perf.offline_bench [--num-prompts 64] [dtype=bfloat16]`.

All prompts are given at once, as a batch job would; then as many one after the other, for the latency.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from perf.call import random_ids
from runtime.engine import Engine

ROW = "{:<12} {:>8} {:>10} {:>10} {:>10}"


def main() -> None:
    options = _parser().parse_args()
    rng = np.random.default_rng(time.time_ns() % 2**32)
    params = {"max_new_tokens": options.random_output_len, "temperature": 0, "ignore_eos": True}
    with Engine(**dict(_flag(text) for text in options.flag)) as engine:
        prompts = random_ids(rng, options.num_prompts + 1, options.random_input_len, options.vocab_size)
        engine.generate(input_ids=prompts.pop(), sampling_params=params)  # warm-up
        print(ROW.format("kind", "prompts", "seconds", "req/s", "tok/s"))
        started = time.perf_counter()
        engine.generate(input_ids=prompts, sampling_params=params)
        _report("batch", options, len(prompts), time.perf_counter() - started)
        prompts = random_ids(rng, options.num_sequential, options.random_input_len, options.vocab_size)
        started = time.perf_counter()
        for prompt in tqdm(prompts, leave=False, unit="prompt", disable=None):
            engine.generate(input_ids=prompt, sampling_params=params)
        _report("sequential", options, len(prompts), time.perf_counter() - started)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.offline_bench", description=__doc__)
    parser.add_argument("--num-prompts", type=int, default=64)
    parser.add_argument("--num-sequential", type=int, default=8)
    parser.add_argument("--random-input-len", type=int, default=100)
    parser.add_argument("--random-output-len", type=int, default=64)
    parser.add_argument("--vocab-size", type=int, default=49000, help="prompt token ids are below this")
    parser.add_argument("flag", nargs="*", metavar="NAME=VALUE", help="options of the engine, as dtype=bfloat16")
    return parser


def _flag(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name.replace("-", "_"), int(value) if value.isdigit() else value


def _report(kind: str, options: argparse.Namespace, num_prompts: int, seconds: float) -> None:
    rate = num_prompts / seconds
    print(ROW.format(kind, num_prompts, f"{seconds:.2f}", f"{rate:.2f}", f"{rate * options.random_output_len:.0f}"))


if __name__ == "__main__":
    main()
