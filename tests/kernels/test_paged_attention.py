from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from kernels import native
from kernels.paged_attention import paged_attention, reference
from kernels.paged_attention.cases import CASES, Case

TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 4e-6}


@dataclass
class Batch:
    """Random keys and values in shuffled pages; pages that no row owns hold NaN."""

    q: torch.Tensor
    key_pages: torch.Tensor
    value_pages: torch.Tensor
    query_starts: torch.Tensor
    kv_lengths: torch.Tensor
    page_tables: torch.Tensor
    scale: float
    options: dict[str, Any]

    def attend(self, operation=paged_attention) -> torch.Tensor:
        inputs = (self.q, self.key_pages, self.value_pages, self.query_starts, self.kv_lengths, self.page_tables)
        return operation(*inputs, self.scale, **self.options)

    def row(self, row: int, first: int, last: int) -> Batch:
        """Only queries first to last of one row, as if they were a step of their own."""
        start, end = self.query_starts[row].item(), self.query_starts[row + 1].item()
        length = self.kv_lengths[row].item() - (end - start) + last
        return Batch(
            self.q[start + first : start + last],
            self.key_pages,
            self.value_pages,
            ints(0, last - first),
            ints(length),
            self.page_tables[row : row + 1],
            self.scale,
            self.options,
        )


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def make(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Batch:
    num_pages = [-(-keys // case.page_size) for _, keys in case.rows]
    order = torch.randperm(sum(num_pages) + 2, generator=generator).int()
    tables = torch.full((len(case.rows), max(num_pages) + 1), -(2**20), dtype=torch.int32)
    shape = (len(order), case.num_kv_heads, case.page_size, case.head_dim)
    pages = torch.full((2, *shape), float("nan"), dtype=dtype)
    taken = 0
    for row, count in enumerate(num_pages):
        tables[row, :count] = order[taken : taken + count]
        taken += count
    for slots, keys in zip(tables, (keys for _, keys in case.rows), strict=True):
        for at in range(0, keys, case.page_size):
            kept = min(case.page_size, keys - at)
            filling = torch.randn(2, case.num_kv_heads, kept, case.head_dim, generator=generator)
            pages[:, slots[at // case.page_size], :, :kept] = filling.to(dtype)
    starts = ints(0, *(queries for queries, _ in case.rows)).cumsum(0).int()
    options: dict[str, Any] = {"window": case.window, "softcap": case.softcap}
    if case.sinks:
        options["sinks"] = torch.randn(case.num_heads, generator=generator)
    if case.alibi:
        options["alibi_slopes"] = torch.rand(case.num_heads, generator=generator)
    q = torch.randn(int(starts[-1]), case.num_heads, case.head_dim, generator=generator).to(dtype)
    lengths = ints(*(keys for _, keys in case.rows))
    return Batch(q, pages[0], pages[1], starts, lengths, tables, case.head_dim**-0.5, options)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(compiled, case, dtype, seeded):
    batch = make(case, dtype, seeded)
    torch.testing.assert_close(
        batch.attend(), batch.attend(reference.paged_attention), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("case", CASES)
def test_a_query_has_the_same_bits_alone_in_a_chunk_and_in_the_batch(compiled, case, dtype, seeded):
    batch = make(case, dtype, seeded)
    together = batch.attend()
    for row, (num_queries, _) in enumerate(case.rows):
        start = batch.query_starts[row].item()
        for first, last in {(0, 1), (num_queries - 1, num_queries), (num_queries // 2, num_queries), (0, num_queries)}:
            if 0 <= first < last <= num_queries:
                assert torch.equal(batch.row(row, first, last).attend(), together[start + first : start + last])


@pytest.mark.parametrize("case", CASES)
def test_the_bits_do_not_depend_on_the_number_of_threads(compiled, case, dtype, seeded):
    batch = make(case, dtype, seeded)
    native.set_num_threads(2)
    on_two = batch.attend()
    native.set_num_threads(8)
    assert torch.equal(batch.attend(), on_two)
    native.set_num_threads(1)
    assert torch.equal(batch.attend(), on_two)


SHARING = (
    Case(((1, 700), (1, 800), (1, 600), (5, 530), (1, 20), (1, 1040)), 9, 3, 64, 16),
    Case(((1, 513), (1, 512), (1, 514), (1, 256), (1, 257)), 6, 2, 40, 32, softcap=20.0, sinks=True, alibi=True),
    Case(((1, 300),) * 37, 4, 4, 24, 16),
    Case(((1, 600), (1, 700)), 17, 1, 24, 16),
    Case(((1, 600), (1, 700)), 4, 2, 24, 7),
    Case(((1, 600), (1, 700)), 4, 2, 24, 16, window=300),
)
"""Rows that may begin with each other's pages: in one block, in many, beside others, or where it is not worth it."""


def share(batch: Batch, families: Sequence[Sequence[int]], num_tokens: int, page_size: int) -> None:
    """The rows of a family begin with the pages of its first for `num_tokens` tokens, or all of the shorter one's."""
    for first, *others in families:
        for row in others:
            least = min(num_tokens, *batch.kv_lengths[[first, row]].tolist())
            batch.page_tables[row, : least // page_size] = batch.page_tables[first, : least // page_size]


@pytest.mark.parametrize("num_tokens", [255, 256, 600, 10_000])
@pytest.mark.parametrize("case", SHARING)
def test_rows_that_begin_with_the_same_pages_have_the_bits_that_each_has_alone(compiled, case, num_tokens, dtype, seeded):
    batch = make(case, dtype, seeded)
    rows = list(range(len(case.rows)))
    share(batch, [rows[::2], rows[1::2]], num_tokens, case.page_size)
    native.set_num_threads(3)
    together = batch.attend()
    native.set_num_threads(1)
    for row in rows:
        alone = batch.row(row, 0, case.rows[row][0]).attend()
        assert torch.equal(alone, together[batch.query_starts[row] : batch.query_starts[row + 1]])


def test_a_family_within_a_family_shares_what_all_have(compiled, dtype, seeded):
    case = Case(((1, 1100),) * 6, 6, 2, 32, 16)
    batch = make(case, dtype, seeded)
    share(batch, [range(6)], 256, 16)
    share(batch, [(1, 3, 5), (0, 4)], 800, 16)
    together = batch.attend()
    for row in range(6):
        assert torch.equal(batch.row(row, 0, 1).attend(), together[row : row + 1])


def test_a_decode_in_a_batch_of_32(compiled, dtype, seeded):
    case = Case(((1, 300),) + ((1, 160),) * 31, 9, 3, 64, 16)
    batch = make(case, dtype, seeded)
    assert torch.equal(batch.row(0, 0, 1).attend(), batch.attend()[:1])


def test_queries_may_be_views_of_a_fused_buffer(compiled, dtype, seeded):
    batch = make(Case(((3, 40), (1, 9)), 9, 3, 64, 16), dtype, seeded)
    expected = batch.attend()
    buffer = torch.zeros(4, 15, 64, dtype=dtype)
    buffer[:, :9] = batch.q
    batch.q = buffer[:, :9]
    assert torch.equal(batch.attend(), expected)


def test_heads_too_wide_for_the_kernel_go_to_the_reference(compiled, dtype, seeded):
    batch = make(Case(((2, 20),), 2, 1, 320, 16), dtype, seeded)
    assert torch.equal(batch.attend(), batch.attend(reference.paged_attention))


def test_reference_is_torchs_own_attention(seeded):
    batch = make(Case(((30, 30),), 4, 2, 32, 16), torch.float32, seeded)
    keys, values = (reference.gather(pages, batch.page_tables[0], 30) for pages in (batch.key_pages, batch.value_pages))
    expected = torch.nn.functional.scaled_dot_product_attention(
        batch.q.transpose(0, 1), keys, values, is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(batch.attend(reference.paged_attention), expected.transpose(0, 1))
