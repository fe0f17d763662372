"""Attention over pages: decode rows, prompts over a cached prefix, windows, soft caps, sinks and slopes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kernels.paged_attention import paged_attention, reference
from kernels.paged_attention.cases import CASES, SMALL_CASES, Case
from perf.kernel_checks import Draw, Pair

DEVICES = ("cpu", "cuda")


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in CASES + SMALL_CASES:
        batch = _batch(case, draw)
        expected = reference.paged_attention(**batch)
        for invariant in (False, True):
            yield Pair(f"{case} {invariant=}", paged_attention(**batch, invariant=invariant), expected)


def _batch(case: Case, draw: Draw) -> dict[str, Any]:
    """The arguments: keys and values are in shuffled pages, and what no row has written is NaN."""
    tables, num_pages = _page_tables(case, draw)
    shape = (num_pages, case.num_kv_heads, case.page_size, case.head_dim)
    pages = torch.full((2, *shape), float("nan"), device=draw.device, dtype=draw.dtype)
    for table, (_, num_keys) in zip(tables, case.rows, strict=True):
        for first in range(0, num_keys, case.page_size):
            kept = min(case.page_size, num_keys - first)
            written = draw.normal(2, case.num_kv_heads, kept, case.head_dim)
            pages[:, int(table[first // case.page_size]), :, :kept] = written
    starts = draw.ints(0, *(queries for queries, _ in case.rows)).cumsum(0).int()
    return {
        "q": draw.normal(int(starts[-1]), case.num_heads, case.head_dim),
        "key_pages": pages[0],
        "value_pages": pages[1],
        "query_starts": starts,
        "kv_lengths": draw.ints(*(keys for _, keys in case.rows)),
        "page_tables": tables,
        "scale": case.head_dim**-0.5,
        "window": case.window,
        "softcap": case.softcap,
        "sinks": draw.normal(case.num_heads, dtype=torch.float32) if case.sinks else None,
        "alibi_slopes": draw.even(case.num_heads) if case.alibi else None,
    }


def _page_tables(case: Case, draw: Draw) -> tuple[Tensor, int]:
    """Tables whose unused entries point nowhere, and how many pages there are."""
    counts = [-(-num_keys // case.page_size) for _, num_keys in case.rows]
    order = draw.order(sum(counts) + 2)
    tables = torch.full((len(counts), max(counts) + 1), -(2**20), dtype=torch.int32, device=draw.device)
    taken = 0
    for row, count in enumerate(counts):
        tables[row, :count] = order[taken : taken + count]
        taken += count
    return tables, len(order)
