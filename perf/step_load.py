"""Which steps a benchmark times, and the memory that they need of an executor."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from perf.static_batch import NUM_WARM_UPS, Times

MIN_PAGES = 4
"""Executors refuse to run with less than a few."""

Kind = Literal["decode", "prefill"]


class Bench(Protocol):
    """What times a step; see `StaticBatch`."""

    async def decode(self, num_rows: int, context: int, num_steps: int, depth: int) -> Times: ...

    async def prefill(self, num_rows: int, num_tokens: int, num_runs: int) -> Times: ...


class Timed(NamedTuple):
    """`sizes`: rows, tokens before the step, new tokens of each row."""

    kind: Kind
    sizes: tuple[int, int, int]
    overlap: bool
    times: Times


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoad:
    """A decode row for each batch size and schedule, a prefill row for each length and number of prompts."""

    batch_sizes: tuple[int, ...]
    context: int
    overlaps: tuple[bool, ...]
    prefill_lengths: tuple[int, ...]
    prefill_batch_sizes: tuple[int, ...]
    num_steps: int
    fill_tokens: int
    page_size: int

    @property
    def num_prefills(self) -> int:
        return max(3, self.num_steps // 10)

    @property
    def num_decoding(self) -> int:
        """Sequences of the largest decode step."""
        return max(self.batch_sizes, default=0)

    @property
    def num_rows(self) -> int:
        """Sequences of the largest step."""
        return max(1, self.num_decoding, *(self.prefill_batch_sizes if self.prefill_lengths else ()))

    @property
    def max_tokens(self) -> int:
        """Of a sequence, in whole pages."""
        longest = max(self.context + 1 + self.num_steps + NUM_WARM_UPS, *self.prefill_lengths, 2)
        return -(-longest // self.page_size) * self.page_size

    @property
    def max_step_tokens(self) -> int:
        return max(self.fill_tokens, max(self.prefill_lengths, default=0) * max(self.prefill_batch_sizes, default=0))

    def flags(self) -> list[str]:
        """Of the server, so that it has just the memory for these rows."""
        sizes = {
            "page-size": self.page_size,
            "context-length": self.max_tokens,
            "max-running-requests": self.num_rows,
            "max-total-tokens": max(self.num_rows * self.max_tokens, MIN_PAGES * self.page_size),
            "chunked-prefill-size": self.max_step_tokens,
        }
        return [text for name, value in sizes.items() for text in (f"--{name}", str(value))]

    async def run(self, bench: Bench) -> AsyncIterator[Timed]:
        """Every row as it is done."""
        for num_rows in self.batch_sizes:
            for overlap in self.overlaps:
                times = await bench.decode(num_rows, self.context, self.num_steps, 2 if overlap else 1)
                yield Timed("decode", (num_rows, self.context, 1), overlap, times)
        for num_tokens in self.prefill_lengths:
            for num_rows in self.prefill_batch_sizes:
                times = await bench.prefill(num_rows, num_tokens, self.num_prefills)
                yield Timed("prefill", (num_rows, 0, num_tokens), False, times)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a load."""
    parser.add_argument("--batch-size", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64], help="decode: sequences")
    parser.add_argument("--context", type=int, default=128, help="decode: tokens that each sequence has already")
    parser.add_argument("--overlap", choices=("on", "off"), nargs="+", default=["on"], help="decode: two plans in flight, one")
    parser.add_argument("--prefill", type=int, nargs="*", default=[32, 100, 512], help="prompt lengths")
    parser.add_argument("--prefill-batch-size", type=int, nargs="+", default=[1], help="prompts in a step")
    parser.add_argument("--repeat", type=int, default=50, help="decode steps; a tenth as many prefills, at least 3")
    parser.add_argument("--fill-tokens", type=int, default=512, help="tokens of the steps that compute the keys and values")
    parser.add_argument("--page-size", type=int, default=16)


def load_of(options: argparse.Namespace) -> StepLoad:
    """From what `add_arguments` reads."""
    return StepLoad(
        batch_sizes=tuple(options.batch_size),
        context=options.context,
        overlaps=tuple(overlap == "on" for overlap in options.overlap),
        prefill_lengths=tuple(options.prefill),
        prefill_batch_sizes=tuple(options.prefill_batch_size),
        num_steps=options.repeat,
        fill_tokens=options.fill_tokens,
        page_size=options.page_size,
    )
