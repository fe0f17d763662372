"""Time the bare model, no server: `python -m perf.step_bench [--model-path M] [--batch-size 1 8 32] [--context 128]`.

Prints the milliseconds of a decode step at each batch size and of a prefill at each prompt length, medians with their minimum,
and which share of the machine's bandwidth the fastest step had: weights and cached tokens, each read once, over what the same
threads read of a large buffer in that time. The sampler is left out. Every run of a row repeats the same step, so caches are
as warm as they get. Steps are replayed as in the server; `--eager` runs them kernel by kernel.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kernels import native
from runtime.config import ModelConfig
from runtime.executor.thread_count import num_usable_cores
from runtime.layers.forward import ForwardBatch, KVCache
from runtime.loading.checkpoint import open_checkpoint
from runtime.models.captured import CapturedDecoder
from runtime.models.decoder import Decoder
from runtime.models.load import load_model

PAGE_SIZE = 16
ROW = "{:>8} {:>7} {:>8} {:>10} {:>10} {:>10} {:>11}"
BANDWIDTH_BYTES = 2**28


def main() -> None:
    options = _parser().parse_args()
    torch.set_num_threads(options.num_threads)
    model = load_model(open_checkpoint(ModelConfig(model_path=options.model_path)), dtype=options.dtype)
    bandwidth = _read_bandwidth()
    print(f"{options.num_threads} threads read {bandwidth / 1e9:.1f} GB/s")
    native.set_num_threads(options.num_threads)
    torch.set_num_threads(1 if model.computes_in_kernels else options.num_threads)
    bench = Bench(model, model if options.eager else CapturedDecoder(model), bandwidth)
    print(ROW.format("kind", "batch", "context", "median ms", "min ms", "tok/s", "bandwidth"))
    with torch.inference_mode():
        for batch_size in options.batch_size:
            bench.report("decode", batch_size, options.context, 1, options.repeat)
        for num_tokens in options.prefill:
            bench.report("prefill", 1, 0, num_tokens, max(3, options.repeat // 10))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.step_bench", description=__doc__)
    parser.add_argument("--model-path")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="decode: sequences")
    parser.add_argument("--context", type=int, default=128, help="decode: tokens that each sequence has already")
    parser.add_argument("--prefill", type=int, nargs="+", default=[32, 100, 512], help="prefill: prompt lengths")
    parser.add_argument("--num-threads", type=int, default=num_usable_cores())
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--eager", action="store_true", help="run the kernels one by one from Python")
    return parser


@dataclass(frozen=True)
class Bench:
    """Times one model. bandwidth: what the machine reads, in bytes per second."""

    decoder: Decoder
    model: Decoder | CapturedDecoder
    bandwidth: float

    def report(self, kind: str, num_rows: int, context: int, num_new: int, repeat: int) -> None:
        batch, kv = _batch(self.decoder, num_rows, context, num_new)
        times_ms = _times_ms(lambda: self.model.forward(batch, kv), repeat)
        median, fastest = statistics.median(times_ms), min(times_ms)
        rate = num_rows * num_new / median * 1e3
        num_bytes = self.decoder.weight_bytes + num_rows * context * self.decoder.kv_shape().bytes_per_token
        share = num_bytes / (fastest / 1e3) / self.bandwidth
        shown = (f"{median:.2f}", f"{fastest:.2f}", f"{rate:.0f}", f"{share:.0%}")
        print(ROW.format(kind, num_rows, context + num_new, *shown))


def _read_bandwidth() -> float:
    """Bytes per second that torch's threads read of a buffer larger than the caches, at their best."""
    buffer = torch.ones(BANDWIDTH_BYTES // 4)
    return BANDWIDTH_BYTES / (min(_times_ms(buffer.sum, 10)) / 1e3)


def _batch(model: Decoder, num_rows: int, context: int, num_new: int) -> tuple[ForwardBatch, KVCache]:
    """`num_rows` sequences with `context` tokens in the cache and `num_new` to compute; only the last one's logits count."""
    length = context + num_new
    pages_per_row = -(-length // PAGE_SIZE)
    page_tables = torch.randperm(num_rows * pages_per_row, dtype=torch.int32).view(num_rows, pages_per_row)
    positions = torch.arange(context, length, dtype=torch.int32).repeat(num_rows)
    owners = torch.arange(num_rows).repeat_interleave(num_new)
    pages = page_tables[owners, (positions // PAGE_SIZE).long()]
    batch = ForwardBatch(
        token_ids=torch.randint(model.spec.vocab_size, (num_rows * num_new,)),
        positions=positions,
        query_starts=torch.arange(0, num_rows * num_new + 1, num_new, dtype=torch.int32),
        kv_lengths=torch.full((num_rows,), length, dtype=torch.int32),
        page_tables=page_tables,
        write_slots=pages * PAGE_SIZE + positions % PAGE_SIZE,
        logit_rows=torch.arange(num_new - 1, num_rows * num_new, num_new),
    )
    return batch, model.kv_shape().allocate(num_rows * pages_per_row, PAGE_SIZE)


def _times_ms(step: Callable[[], object], repeat: int) -> list[float]:
    for _ in range(3):
        step()
    times_ms = []
    for _ in range(repeat):
        started = time.perf_counter()
        step()
        times_ms.append((time.perf_counter() - started) * 1e3)
    return times_ms


if __name__ == "__main__":
    main()
