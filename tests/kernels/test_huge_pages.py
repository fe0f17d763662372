from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from kernels.huge_pages import ALIGNMENT_BYTES, CHUNK_BYTES, PAGE_BYTES, HugePages


def test_tensors_keep_shape_dtype_and_values_and_do_not_overlap() -> None:
    memory = HugePages()
    tensors = [torch.randn(3, 5), torch.arange(7, dtype=torch.uint8), torch.randn(4, 6).half().T, torch.empty(0, 3)]
    placed = [memory.place(tensor) for tensor in tensors]
    for before, after in zip(tensors, placed, strict=True):
        assert (after.dtype, after.is_contiguous()) == (before.dtype, True)
        assert torch.equal(before, after)
    assert all(tensor.data_ptr() % ALIGNMENT_BYTES == 0 for tensor in placed)


def test_chunks_start_at_a_page_and_grow_with_what_they_hold() -> None:
    memory = HugePages()
    first = memory.place(torch.ones(CHUNK_BYTES - 1, dtype=torch.uint8))
    second = memory.place(torch.full((CHUNK_BYTES + 1,), 2, dtype=torch.uint8))
    third = memory.place(torch.full((10,), 3, dtype=torch.uint8))
    assert first.data_ptr() % PAGE_BYTES == second.data_ptr() % PAGE_BYTES == 0
    assert third.data_ptr() - second.data_ptr() == CHUNK_BYTES + ALIGNMENT_BYTES
    assert (first == 1).all()
    assert (second == 2).all()
    assert (third == 3).all()


def test_a_tensor_outlives_the_owner() -> None:
    tensor = HugePages().place(torch.arange(100_000))
    assert torch.equal(tensor, torch.arange(100_000))


def test_several_threads_place_at_once() -> None:
    memory = HugePages()
    with ThreadPoolExecutor(4) as pool:
        placed = list(pool.map(lambda value: memory.place(torch.full((50_001,), value)), range(200)))
    assert all((tensor == value).all() for value, tensor in enumerate(placed))
