from __future__ import annotations

import pytest
import torch

from kernels import native
from kernels.rope import reference, rope_and_write
from kernels.rope.cases import CASES, Case

MAX_POSITIONS = 512


def fused(case: Case, dtype: torch.dtype, generator: torch.Generator):
    """q, k, v as views of one buffer, as a fused projection gives them."""
    heads = (case.num_heads, case.num_kv_heads, case.num_kv_heads)
    buffer = torch.randn(case.num_tokens, sum(heads), case.head_dim, generator=generator).to(dtype)
    return buffer.split(heads, dim=1)


def table(rotary_dim: int) -> torch.Tensor:
    half = rotary_dim // 2
    angles = torch.arange(MAX_POSITIONS)[:, None] * 10000.0 ** (-torch.arange(half) / max(half, 1))
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def placement(case: Case, dtype: torch.dtype, generator: torch.Generator):
    num_pages = case.num_tokens // case.page_size + 3
    shape = (num_pages, case.num_kv_heads, case.page_size, case.head_dim)
    slots = torch.randperm(num_pages * case.page_size, generator=generator)[: case.num_tokens].int()
    positions = torch.randint(0, MAX_POSITIONS, (case.num_tokens,), generator=generator).int()
    return torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype), positions, slots


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(compiled, case, dtype, seeded):
    q, k, v = fused(case, dtype, seeded)
    keys, values, positions, slots = placement(case, dtype, seeded)
    slots[case.num_tokens // 2] = -1
    cos_sin = table(case.rotary_dim)
    expected_q, expected_keys, expected_values = q.clone(), keys.clone(), values.clone()
    given = (k.clone(), v.clone())
    reference.rope_and_write(
        expected_q, k, v, cos_sin, positions, expected_keys, expected_values, slots, interleaved=case.interleaved
    )
    rope_and_write(q, k, v, cos_sin, positions, keys, values, slots, interleaved=case.interleaved)
    tolerance = 2**-7 if dtype is torch.bfloat16 else 1e-6
    torch.testing.assert_close(q, expected_q, rtol=tolerance, atol=1e-6)
    torch.testing.assert_close(keys, expected_keys, rtol=tolerance, atol=1e-6)
    assert torch.equal(values, expected_values)
    assert torch.equal(k, given[0])
    assert torch.equal(v, given[1])


def test_a_negative_slot_writes_nothing(compiled, dtype, seeded):
    case = Case(2, 2, 1, 16, 16, 4)
    q, k, v = fused(case, dtype, seeded)
    keys, values, positions, slots = placement(case, dtype, seeded)
    rope_and_write(q, k, v, table(16), positions, keys, values, slots.fill_(-1))
    assert not keys.any()
    assert not values.any()


def test_rotation_is_a_turn_in_the_plane(compiled, dtype):
    """A head (1, 0) at angle t becomes (cos t, sin t), in either pairing."""
    q = torch.tensor([[[1.0, 0.0]]], dtype=dtype)
    pages = torch.zeros(1, 1, 1, 2, dtype=dtype)
    cos_sin = torch.tensor([[0.6, 0.8]])
    at = torch.zeros(1, dtype=torch.int32)
    rope_and_write(q, q.clone(), q.clone(), cos_sin, at, pages, pages.clone(), at)
    torch.testing.assert_close(q, torch.tensor([[[0.6, 0.8]]], dtype=dtype), rtol=2**-7, atol=0)


def test_a_token_has_the_same_bits_alone_and_on_any_thread(compiled, dtype, seeded):
    case = Case(150, 9, 3, 64, 64, 16)
    q, k, v = fused(case, dtype, seeded)
    keys, values, positions, slots = placement(case, dtype, seeded)
    alone = q[70:71].clone()
    single_q, single_keys = q.clone(), keys.clone()
    native.set_num_threads(3)
    rope_and_write(q, k, v, table(64), positions, keys, values, slots)
    native.set_num_threads(1)
    rope_and_write(single_q, k, v, table(64), positions, single_keys, values, slots)
    assert torch.equal(q, single_q)
    assert torch.equal(keys, single_keys)
    rope_and_write(alone, k[70:71], v[70:71], table(64), positions[70:71], keys, values, slots[70:71])
    assert torch.equal(alone, q[70:71])
    assert torch.equal(keys, single_keys)
