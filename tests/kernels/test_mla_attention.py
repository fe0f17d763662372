from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from kernels import paged_attention
from kernels.mla_attention import mla_attention, reference, triton
from kernels.mla_attention.cases import CASES, Case
from tests.kernels.test_paged_attention import ints

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
DECODES = tuple(case for case in CASES if all(queries <= 1 for queries, _ in case.rows))
MIXED = tuple(case for case in CASES if case not in DECODES)

attend = triton.mla_attention
attend_invariantly = functools.partial(attend, invariant=True)


@dataclass
class Batch:
    """Random latents in shuffled pages; pages that no row owns, and the ends of those that some do, hold NaN."""

    q_nope: Tensor
    q_rope: Tensor
    latent_pages: Tensor
    query_starts: Tensor
    kv_lengths: Tensor
    page_tables: Tensor
    scale: float

    def attend(self, operation: Callable[..., Tensor]) -> Tensor:
        return operation(*vars(self).values())

    def row(self, row: int, first: int, last: int) -> Batch:
        """Only queries first to last of one row, as if they were a step of their own."""
        start, end = self.query_starts[row].item(), self.query_starts[row + 1].item()
        taken = slice(start + first, start + last)
        return dataclasses.replace(
            self,
            q_nope=self.q_nope[taken],
            q_rope=self.q_rope[taken],
            query_starts=ints(0, last - first).to(self.q_nope.device),
            kv_lengths=self.kv_lengths[row : row + 1] - (end - start) + last,
            page_tables=self.page_tables[row : row + 1],
        )


def make(case: Case, dtype: torch.dtype, generator: torch.Generator, device: torch.device) -> Batch:
    num_pages = [-(-keys // case.page_size) for _, keys in case.rows]
    order = torch.randperm(sum(num_pages) + 2, generator=generator)
    tables = torch.full((len(case.rows), max(num_pages) + 1), -(2**20), dtype=torch.int32)
    width = case.kv_lora_rank + case.rope_dim
    pages = torch.full((len(order), case.page_size, width), float("nan"))
    taken = 0
    for row, (count, (_, keys)) in enumerate(zip(num_pages, case.rows, strict=True)):
        own = order[taken : taken + count]
        tables[row, :count] = own
        latents = torch.full((count * case.page_size, width), float("nan"))
        latents[:keys] = torch.randn(keys, width, generator=generator)
        pages[own] = latents.view(count, case.page_size, width)
        taken += count
    starts = ints(0, *(queries for queries, _ in case.rows)).cumsum(0).int()
    q = torch.randn(int(starts[-1]), case.num_heads, width, generator=generator)
    q_nope, q_rope = q.to(device, dtype).split((case.kv_lora_rank, case.rope_dim), dim=-1)
    lengths = ints(*(keys for _, keys in case.rows))
    on_device = (tensor.to(device) for tensor in (starts, lengths, tables))
    return Batch(q_nope, q_rope, pages.to(device, dtype), *on_device, width**-0.5)


@pytest.fixture
def make_batch(triton_device, triton_dtype, seeded) -> Callable[[Case], Batch]:
    return lambda case: make(case, triton_dtype, seeded, triton_device)


@pytest.fixture
def make_half_batch(triton_device, seeded) -> Callable[[Case], Batch]:
    """In the 16-bit type that the device does best."""
    dtype = torch.bfloat16 if triton_device.type == "cuda" else torch.float16
    return lambda case: make(case, dtype, seeded, triton_device)


def check(batch: Batch, attend: Callable[..., Tensor] = attend) -> None:
    tolerance = TOLERANCE[batch.q_nope.dtype]
    expected = batch.attend(reference.mla_attention)
    torch.testing.assert_close(batch.attend(attend), expected, rtol=tolerance, atol=tolerance)


def test_reference_is_attention_with_one_key_head(seeded):
    batch = make(Case(((3, 20), (1, 31)), 4, 32, 16, 16), torch.float32, seeded, torch.device("cpu"))
    keys = batch.latent_pages[:, None]
    q = torch.cat((batch.q_nope, batch.q_rope), dim=-1)
    places = (batch.query_starts, batch.kv_lengths, batch.page_tables)
    expected = paged_attention.reference.paged_attention(q, keys, keys, *places, batch.scale)
    torch.testing.assert_close(batch.attend(mla_attention), expected[..., :32])


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(case, make_batch):
    check(make_batch(case))


@pytest.mark.parametrize("case", [*DECODES[1:3], *MIXED[-3:]])
def test_agrees_with_the_reference_when_decode_and_extend_are_to_have_the_same_bits(case, make_half_batch):
    check(make_half_batch(case), attend_invariantly)


@pytest.mark.parametrize("case", DECODES)
def test_a_decoded_token_has_the_same_bits_alone_and_in_the_batch(case, make_half_batch):
    batch = make_half_batch(case)
    together = batch.attend(attend)
    for row, start in enumerate(batch.query_starts[:-1].tolist()):
        if case.rows[row][0]:
            assert torch.equal(batch.row(row, 0, 1).attend(attend), together[start : start + 1])


@pytest.mark.parametrize("case", MIXED)
def test_a_query_has_the_same_bits_alone_in_a_chunk_and_in_the_batch(case, make_half_batch):
    """Alone it is decoded, in the batch not: that takes `invariant`."""
    batch = make_half_batch(case)
    together = batch.attend(attend_invariantly)
    for row, start in enumerate(batch.query_starts[:-1].tolist()):
        num_queries = case.rows[row][0]
        for first, last in {(0, 1), (num_queries - 1, num_queries), (num_queries // 2, num_queries)}:
            if 0 <= first < last <= num_queries:
                chunk = batch.row(row, first, last).attend(attend_invariantly)
                assert torch.equal(chunk, together[start + first : start + last])


def test_decode_and_extend_have_the_same_tiles_when_they_are_to_have_the_same_bits(make_batch, monkeypatch):
    tilings = []
    monkeypatch.setattr(triton, "decode", lambda inputs, tiling, limits: tilings.append(tiling))
    monkeypatch.setattr(triton, "extend", lambda inputs, tiling, is_split: tilings.append(tiling))
    for queries in (1, 5):
        make_batch(Case(((queries, 20),), 16, 512, 64, 16)).attend(attend_invariantly)
    assert tilings[0] == tilings[1]


@pytest.mark.parametrize("queries", [1, 9])
def test_a_row_has_the_same_bits_whatever_the_lengths_of_the_others(queries, make_half_batch):
    batch = make_half_batch(Case(((queries, 270), (queries, 300), (queries, 40)), 4, 32, 16, 16))
    before = batch.attend(attend)
    batch.kv_lengths = batch.kv_lengths.clone()
    batch.kv_lengths[0], batch.kv_lengths[2] = 25, 39
    after = batch.attend(attend)
    assert torch.equal(after[queries : 2 * queries], before[queries : 2 * queries])
    assert not torch.equal(after[:queries], before[:queries])


def test_padded_rows_of_a_graph_change_nothing_and_give_zeros(make_half_batch):
    """Row 2 has a token and no latents; row 3 has no token, so the last token has no row."""
    batch = make_half_batch(Case(((1, 270), (1, 31), (1, 0), (0, 0)), 4, 32, 16, 16))
    alone = [batch.row(row, 0, 1).attend(attend) for row in (0, 1)]
    batch.q_nope, batch.q_rope = (torch.cat((q, q[:1])) for q in (batch.q_nope, batch.q_rope))
    together = batch.attend(attend)
    assert torch.equal(together[:2], torch.cat(alone))
    assert not together[2:].any()


def test_tokens_without_a_row_get_zeros_in_a_mixed_step(make_half_batch):
    batch = make_half_batch(Case(((5, 40), (1, 31)), 4, 32, 16, 16))
    expected = batch.attend(attend)
    batch.q_nope, batch.q_rope = (torch.cat((q, q)) for q in (batch.q_nope, batch.q_rope))
    together = batch.attend(attend)
    assert torch.equal(together[:6], expected)
    assert not together[6:].any()


LAUNCHED = (
    (Case(((1, 300),), 16, 512, 64, 16), False),
    (Case(((1, 300),), 128, 512, 64, 64), False),
    (Case(((40, 300),), 16, 512, 64, 16), False),
    (Case(((40, 300),), 5, 500, 60, 1), True),
)


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    for case, invariant in LAUNCHED:
        batch = make(case, torch.bfloat16, torch.Generator().manual_seed(7), torch.device("cpu"))
        yield f"{case} {invariant=}", functools.partial(batch.attend, functools.partial(attend, invariant=invariant))


def test_compiles_for_hopper(compiled_for_hopper):
    compiled_for_hopper(__name__)
