"""Products with packed weights: right, and each row the same bits whatever is beside it."""

from __future__ import annotations

import weakref

import pytest
import torch

from kernels import native
from runtime.layers.linear import BlockedLinear, Linear, PanelLinear, make_linear
from runtime.layers.precision import fast_dtype, has_onednn

SHAPES = [(576, 960), (576, 576), (1536, 576), (2048, 320), (100, 30)]
NUM_ROWS = [*range(1, 33), 33, 48, 63, 64, 65, 100, 127, 128]


@pytest.fixture(params=["kernel", "onednn"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Linear]:
    """Products in our kernel, and as without a compiler."""
    if request.param == "kernel":
        if native.function("float_linear") is None:
            pytest.skip("there is no compiler")
        return PanelLinear
    if not has_onednn():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(native, "function", lambda name: None)
    return BlockedLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
def test_product(kind: type[Linear], dtype: torch.dtype, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(30, 100, generator=generator), torch.randn(30, generator=generator)
    x = torch.randn(5, 100, generator=generator)
    expected = x @ weight.T + bias * has_bias
    linear = make_linear(weight.to(dtype), bias.to(dtype) if has_bias else None)
    assert isinstance(linear, kind)
    tolerance = 1e-4 if dtype is torch.float32 else 0.3
    for num_rows in (1, 2, 5):
        result = linear(x[:num_rows].to(dtype))
        assert result.dtype == dtype
        torch.testing.assert_close(result.float(), expected[:num_rows], atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_do_not_depend_on_the_batch(kind: type[Linear], shape: tuple[int, int], dtype: torch.dtype) -> None:
    in_features, out_features = shape
    generator = torch.Generator().manual_seed(0)
    linear = make_linear((torch.randn(out_features, in_features, generator=generator) * 0.02).to(dtype))
    x = torch.randn(128, in_features, generator=generator).to(dtype)
    expected = linear(x)
    for num_rows in NUM_ROWS:
        assert torch.equal(linear(x[:num_rows]), expected[:num_rows]), num_rows
    for row in range(0, 128, 3):
        assert torch.equal(linear(x[row : row + 1]), expected[row : row + 1]), row


@pytest.mark.skipif(fast_dtype() is not torch.bfloat16, reason="this processor has no fast bfloat16")
def test_packing_does_not_keep_the_weight(kind: type[Linear]) -> None:
    weight = torch.randn(64, 64, dtype=torch.bfloat16)
    reference = weakref.ref(weight)
    linear = make_linear(weight)
    del weight
    assert isinstance(linear, kind)
    assert reference() is None
