"""Latent attention over pages: decode rows and prompts over a cached prefix, few heads and more than a tile has rows for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from kernels.mla_attention import mla_attention, reference
from kernels.mla_attention.cases import CASES, Case
from perf.kernel_checks import Draw, Pair

DEVICES = ("cuda",)
DEEPSEEK_V2_LITE = Case(((1, 900), (200, 700), (1, 33)), 16, 512, 64, 16)
DEEPSEEK_V3 = Case(((1, 900), (1, 0), (1, 5000)), 128, 512, 64, 64)


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in (*CASES, DEEPSEEK_V2_LITE, DEEPSEEK_V3):
        batch = _batch(case, draw)
        expected = reference.mla_attention(**batch)
        for invariant in (False, True):
            yield Pair(f"{case} {invariant=}", mla_attention(**batch, invariant=invariant), expected)


def _batch(case: Case, draw: Draw) -> dict[str, Any]:
    """The arguments: latents are in shuffled pages, and what no row has written is NaN."""
    width = case.kv_lora_rank + case.rope_dim
    counts = [-(-num_keys // case.page_size) for _, num_keys in case.rows]
    order = draw.order(sum(counts) + 2)
    tables = torch.full((len(counts), max(counts) + 1), -(2**20), dtype=torch.int32, device=draw.device)
    pages = torch.full((len(order), case.page_size, width), float("nan"), device=draw.device, dtype=draw.dtype)
    taken = 0
    for row, (count, (_, num_keys)) in enumerate(zip(counts, case.rows, strict=True)):
        own = order[taken : taken + count]
        tables[row, :count] = own
        latents = torch.full((count * case.page_size, width), float("nan"), device=draw.device, dtype=draw.dtype)
        latents[:num_keys] = draw.normal(num_keys, width)
        pages[own.long()] = latents.view(count, case.page_size, width)
        taken += count
    starts = draw.ints(0, *(queries for queries, _ in case.rows)).cumsum(0).int()
    q = draw.normal(int(starts[-1]), case.num_heads, width)
    return {
        "q_nope": q[..., : case.kv_lora_rank],
        "q_rope": q[..., case.kv_lora_rank :],
        "latent_pages": pages,
        "query_starts": starts,
        "kv_lengths": draw.ints(*(num_keys for _, num_keys in case.rows)),
        "page_tables": tables,
        "scale": width**-0.5,
    }
