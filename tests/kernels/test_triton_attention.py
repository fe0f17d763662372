from __future__ import annotations

import dataclasses
import functools
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from kernels.paged_attention import reference, triton
from kernels.paged_attention.cases import CASES, SMALL_CASES, Case
from kernels.paged_attention.triton.splits import num_splits
from tests.kernels.test_paged_attention import Batch, make

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
DECODES = tuple(case for case in SMALL_CASES if all(queries <= 1 for queries, _ in case.rows))
MIXED = tuple(case for case in SMALL_CASES if case not in DECODES)
GPU_CASES = CASES if torch.cuda.is_available() else ()

attend = triton.paged_attention
attend_invariantly = functools.partial(attend, invariant=True)


@pytest.fixture
def make_batch(triton_device, triton_dtype, seeded) -> Callable[[Case], Batch]:
    return lambda case: on(make(case, triton_dtype, seeded), triton_device)


@pytest.fixture
def make_half_batch(triton_device, seeded) -> Callable[[Case], Batch]:
    """In the 16-bit type that the device does best."""
    dtype = torch.bfloat16 if triton_device.type == "cuda" else torch.float16
    return lambda case: on(make(case, dtype, seeded), triton_device)


def on(batch: Batch, device: torch.device) -> Batch:
    moved = {name: value.to(device) for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    options = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.options.items()}
    return dataclasses.replace(batch, **moved, options=options)


def check(batch: Batch, attend=attend) -> None:
    tolerance = TOLERANCE[batch.q.dtype]
    expected = batch.attend(reference.paged_attention)
    torch.testing.assert_close(batch.attend(attend), expected, rtol=tolerance, atol=tolerance)


def chunks(num_queries: int) -> Iterator[tuple[int, int]]:
    """A row's first query, its last, its last half and all."""
    for first, last in {(0, 1), (num_queries - 1, num_queries), (num_queries // 2, num_queries), (0, num_queries)}:
        if 0 <= first < last <= num_queries:
            yield first, last


@pytest.mark.parametrize("case", SMALL_CASES + GPU_CASES)
def test_agrees_with_the_reference(case, make_batch):
    check(make_batch(case))


@pytest.mark.parametrize("case", SMALL_CASES[1:4] + SMALL_CASES[-3:] + GPU_CASES)
def test_agrees_with_the_reference_when_decode_and_extend_are_to_have_the_same_bits(case, make_half_batch):
    check(make_half_batch(case), attend_invariantly)


@pytest.mark.parametrize("case", DECODES)
def test_a_decoded_token_has_the_same_bits_alone_and_in_the_batch(case, make_half_batch):
    batch = make_half_batch(case)
    together = batch.attend(attend)
    for row, start in enumerate(batch.query_starts[:-1].tolist()):
        if case.rows[row][0]:
            assert torch.equal(batch.row(row, 0, 1).attend(attend), together[start : start + 1])


@pytest.mark.parametrize("case", MIXED + GPU_CASES)
def test_a_query_has_the_same_bits_alone_in_a_chunk_and_in_the_batch(case, make_half_batch):
    """Alone it is decoded, in the batch not: that takes `invariant`."""
    batch = make_half_batch(case)
    together = batch.attend(attend_invariantly)
    for row, start in enumerate(batch.query_starts[:-1].tolist()):
        for first, last in chunks(case.rows[row][0]):
            chunk = batch.row(row, first, last).attend(attend_invariantly)
            assert torch.equal(chunk, together[start + first : start + last])


def test_decode_and_extend_have_the_same_tiles_when_they_are_to_have_the_same_bits(make_batch, monkeypatch):
    """What a GPU adds up in a product of tiles depends on their shapes; the interpreter does not."""
    tilings = []
    monkeypatch.setattr(triton, "decode", lambda inputs, sinks, tiling, limits: tilings.append(tiling))
    monkeypatch.setattr(triton, "extend", lambda inputs, sinks, tiling, is_split: tilings.append(tiling))
    for queries in (1, 5):
        make_batch(Case(((queries, 20),), 8, 2, 128, 16)).attend(attend_invariantly)
    assert tilings[0] == tilings[1]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_bits_do_not_depend_on_how_many_programs_share_a_row(num_workers, make_half_batch, monkeypatch):
    batch = make_half_batch(Case(((1, 840), (1, 31)), 4, 2, 64, 16))
    before = batch.attend(attend)
    module = importlib.import_module("kernels.paged_attention.triton.decode")
    monkeypatch.setattr(module, "num_workers", lambda num_pairs, num_splits, limits: num_workers)
    assert torch.equal(batch.attend(attend), before)


def test_a_chunk_of_a_prompt_has_the_same_bits_as_the_whole(make_batch):
    batch = make_batch(Case(((90, 200), (1, 20)), 4, 2, 64, 16, window=150))
    together = batch.attend(attend)
    for first, last in ((0, 2), (1, 40), (33, 90)):
        assert torch.equal(batch.row(0, first, last).attend(attend), together[first:last])


@pytest.mark.parametrize("queries", [1, 20])
def test_a_row_has_the_same_bits_whatever_the_lengths_of_the_others(queries, make_half_batch):
    batch = make_half_batch(Case(((queries, 270), (queries, 300), (queries, 40)), 4, 2, 64, 16))
    before = batch.attend(attend)
    batch.kv_lengths = batch.kv_lengths.clone()
    batch.kv_lengths[0], batch.kv_lengths[2] = 25, 39
    after = batch.attend(attend)
    assert torch.equal(after[queries : 2 * queries], before[queries : 2 * queries])
    assert not torch.equal(after[:queries], before[:queries])


@pytest.mark.parametrize("num_pages", [20, 200])
def test_a_row_has_the_same_bits_with_a_wider_page_table(num_pages, make_half_batch):
    batch = make_half_batch(Case(((1, 300), (1, 31)), 4, 2, 64, 16))
    before = batch.attend(attend)
    wider = torch.full((2, num_pages), -(2**20), dtype=torch.int32, device=batch.q.device)
    wider[:, : batch.page_tables.shape[1]] = batch.page_tables
    batch.page_tables = wider
    assert torch.equal(batch.attend(attend), before)


@pytest.mark.parametrize("attention", [attend, attend_invariantly])
@pytest.mark.parametrize("queries", [1, 5])
def test_a_window_reads_no_page_before_it(queries, attention, make_half_batch):
    """Pages behind the window may have been given to others; those next to it lie in the same block of keys."""
    batch = make_half_batch(Case(((queries, 300),), 4, 2, 64, 16, window=70))
    before = batch.attend(attention)
    first_page = (300 - queries + 1 - 70) // 16
    pages = batch.page_tables[0, :first_page].long()
    for kept in (batch.key_pages, batch.value_pages):
        kept[pages] = float("nan")
    assert torch.equal(batch.attend(attention), before)


def test_padded_rows_of_a_graph_change_nothing_and_give_zeros(make_half_batch):
    """Row 2 has a token and no keys; row 3 has no token, so the last token has no row."""
    batch = make_half_batch(Case(((1, 270), (1, 31), (1, 0), (0, 0)), 4, 2, 64, 16, sinks=True))
    alone = [batch.row(row, 0, 1).attend(attend) for row in (0, 1)]
    batch.q = torch.cat((batch.q, batch.q[:1]))
    together = batch.attend(attend)
    assert torch.equal(together[:2], torch.cat(alone))
    assert not together[2:].any()


def test_tokens_without_a_row_get_zeros_in_a_mixed_step(make_half_batch):
    batch = make_half_batch(Case(((5, 40), (1, 31)), 4, 2, 64, 16))
    expected = batch.attend(attend)
    batch.q = torch.cat((batch.q, batch.q))
    together = batch.attend(attend)
    assert torch.equal(together[:6], expected)
    assert not together[6:].any()


@pytest.mark.parametrize("rows", [((1, 40), (1, 9)), ((3, 40), (1, 9))])
def test_queries_may_be_views_of_a_fused_buffer(rows, make_half_batch):
    batch = make_half_batch(Case(rows, 6, 2, 64, 16))
    expected = batch.attend(attend)
    buffer = batch.q.new_zeros(batch.q.shape[0], 10, 64)
    buffer[:, :6] = batch.q
    batch.q = buffer[:, :6]
    assert torch.equal(batch.attend(attend), expected)


def test_an_empty_step_has_an_empty_result(make_batch):
    batch = make_batch(Case(((0, 0), (0, 20)), 4, 2, 64, 16))
    assert batch.attend(attend).shape == (0, 4, 64)


def test_a_step_in_which_rows_have_moved_is_found_by_the_search(make_batch):
    """No more tokens than rows, but none is its own row's: each has to be looked for."""
    check(make_batch(Case(((0, 0), (0, 0), (2, 20), (0, 5), (1, 33), (3, 50)), 2, 1, 16, 16)))


@pytest.mark.parametrize(("num_tokens", "expected"), [(0, 0), (1, 1), (256, 1), (257, 2), (2048, 8), (2049, 9), (3073, 11)])
def test_splits_grow_with_the_position(num_tokens, expected):
    assert num_splits(num_tokens) == expected


def test_a_long_context_has_few_splits():
    assert num_splits(131072) == 49
    assert num_splits(2**20) <= 100


def test_the_operation_on_a_cpu_does_not_import_triton():
    script = (
        "import sys, torch; from kernels.paged_attention import paged_attention as f\n"
        "i = lambda *v: torch.tensor(v, dtype=torch.int32)\n"
        "p = torch.zeros(2, 1, 16, 8); f(p[:, 0, :1], p, p, i(0, 2), i(2), i(1)[None], 1.0); assert 'triton' not in sys.modules"
    )
    subprocess.run((sys.executable, "-c", script), check=True)


LAUNCHED = (
    (Case(((1, 300),), 32, 8, 128, 16), False),
    (Case(((1, 300),), 3, 1, 48, 7, window=60, softcap=5.0, sinks=True, alibi=True), True),
    (Case(((40, 300),), 32, 8, 128, 16), False),
    (Case(((40, 300),), 16, 8, 256, 128, window=60, softcap=5.0, sinks=True, alibi=True), True),
)


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    for case, invariant in LAUNCHED:
        batch = make(case, torch.bfloat16, torch.Generator().manual_seed(7))
        yield f"{case} {invariant=}", functools.partial(batch.attend, functools.partial(attend, invariant=invariant))


def test_compiles_for_hopper(compiled_for_hopper):
    compiled_for_hopper(__name__)
