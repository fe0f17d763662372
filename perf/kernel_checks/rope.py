"""Rotary embedding with the write of keys and values, and with norms before it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.rms_norm import reference as norm
from kernels.rope import reference, rope_and_write
from kernels.rope.cases import CASES, Case
from perf.kernel_checks import Draw, Pair

MAX_POSITIONS = 512
EPS = 1e-6

DEVICES = ("cpu", "cuda")


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in CASES:
        for is_normed in (False, True):
            yield from _pairs(case, draw, is_normed)


def _pairs(case: Case, draw: Draw, is_normed: bool) -> Iterator[Pair]:
    heads = (case.num_heads, case.num_kv_heads, case.num_kv_heads)
    q, k, v = draw.normal(case.num_tokens, sum(heads), case.head_dim).split(heads, dim=1)  # type: ignore[no-untyped-call]
    weights = [draw.even(case.head_dim) for _ in range(2)] if is_normed else [None, None]
    num_pages = case.num_tokens // case.page_size + 3
    pages = torch.zeros(2, num_pages, case.num_kv_heads, case.page_size, case.head_dim, device=draw.device, dtype=draw.dtype)
    positions, slots = draw.below(MAX_POSITIONS, case.num_tokens), draw.order(num_pages * case.page_size)[: case.num_tokens]
    slots[case.num_tokens // 2] = -1
    table, expected_pages = _table(case.rotary_dim, draw), pages.clone()
    expected_q, expected_k = (_normed(x, weight) for x, weight in zip((q, k), weights, strict=True))
    expected_keys, expected_values = expected_pages
    reference.rope_and_write(
        *(expected_q, expected_k, v, table, positions, expected_keys, expected_values, slots), interleaved=case.interleaved
    )
    rotated = rope_and_write(
        *(q, k, v, table, positions, pages[0], pages[1], slots),
        interleaved=case.interleaved,
        q_norm=weights[0],
        k_norm=weights[1],
        eps=EPS,
    )
    name = f"{case} normed" if is_normed else f"{case}"
    yield Pair(f"{name} queries", rotated, expected_q)
    yield Pair(f"{name} keys", pages[0], expected_keys)
    yield Pair(f"{name} values", pages[1], expected_values)


def _normed(x: Tensor, weight: Tensor | None) -> Tensor:
    return x.clone() if weight is None else norm.rms_norm(x, weight, EPS)


def _table(rotary_dim: int, draw: Draw) -> Tensor:
    half = rotary_dim // 2
    angles = torch.arange(MAX_POSITIONS)[:, None] * 10000.0 ** (-torch.arange(half) / max(half, 1))
    return torch.cat((angles.cos(), angles.sin()), dim=-1).to(draw.device)
