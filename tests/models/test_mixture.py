"""Mixtures of experts from files that quantize them, and what they take of memory."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tqdm import tqdm

from runtime.layers.moe import MixtureOfExperts
from runtime.layers.quantized import ROUNDINGS, QuantizedLinear, can_stay_quantized
from runtime.loading.gguf import GgufTensor
from runtime.models.architectures import spec_for
from runtime.models.decoder import Decoder, build_decoder
from runtime.models.spec import DecoderSpec, weight_shapes
from runtime.models.weights import Weights
from tests.models.conftest import TINY, PagedRunner, PagedSequence, load_ours, save_random_model

CONFIG = TINY | {"architectures": ["Qwen3MoeForCausalLM"], "head_dim": 32, "num_experts": 4, "moe_intermediate_size": 32}
CONFIG |= {"num_experts_per_tok": 2, "tie_word_embeddings": True}


def stored_in_blocks(spec: DecoderSpec) -> dict[str, GgufTensor]:
    """Random weights as a GGUF file has them: norms and the router plain, all else in blocks."""
    tensors = {}
    random = np.random.default_rng(5)
    for name, shape in weight_shapes(spec).items():
        is_plain = name.endswith(("norm.weight", "mlp.gate.weight"))
        kind = gguf.GGMLQuantizationType.F32 if is_plain else gguf.GGMLQuantizationType.Q8_0
        values = random.normal(1.0 if name.endswith("norm.weight") else 0.0, 0.15, size=shape).astype(np.float32)
        tensors[name] = GgufTensor(name, shape, kind, gguf.quantize(values, kind).view(np.uint8).reshape(-1))
    return tensors


def logits(model: Decoder) -> torch.Tensor:
    return PagedRunner(model, 16).step((PagedSequence(list(range(20))), 20))[0]


@pytest.mark.skipif(not can_stay_quantized(range(64)), reason="no C compiler: weights are dequantized at load")
def test_experts_stay_quantized() -> None:
    spec = spec_for(CONFIG)
    models = []
    for rounding in (None, ROUNDINGS["16"]):
        weights = Weights(stored_in_blocks(spec), torch.float32, tqdm(disable=True), rounding=rounding)
        models.append(build_decoder(spec, weights, torch.float32, 64))
    plain, quantized = models
    mixture = quantized.layers[0].mlp
    assert isinstance(mixture, MixtureOfExperts)
    assert all(isinstance(product, QuantizedLinear) for expert in mixture.experts for product in expert.products)
    assert quantized.computes_in_kernels
    assert not quantized.can_be_captured
    torch.testing.assert_close(logits(quantized), logits(plain), atol=2e-3, rtol=0)


def test_every_expert_counts_as_memory(tmp_path: Path) -> None:
    save_random_model(tmp_path, "Qwen3MoeConfig", num_experts=4, moe_intermediate_size=32, num_experts_per_tok=1)
    model = load_ours(tmp_path)
    products = [
        shape for name, shape in weight_shapes(model.spec).items() if not name.endswith(("norm.weight", "tokens.weight"))
    ]
    num_bytes = 4 * sum(rows * columns for rows, columns in products)
    assert num_bytes <= model.weight_bytes < 1.1 * num_bytes  # with what their layout fills up
