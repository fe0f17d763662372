"""A model on a device: where its weights go, in which type, and with which products. The device here has no memory at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from kernels.paged_attention import paged_attention, reference
from runtime.config import ModelConfig
from runtime.layers.embedding import PlainEmbedding
from runtime.layers.gated_mlp import GatedMlp
from runtime.layers.grouped_moe import GroupedMixture
from runtime.layers.linear import InvariantLinear, PlainLinear
from runtime.layers.placement import Placement, on_device
from runtime.loading.checkpoint import open_checkpoint
from runtime.models.architectures import spec_for
from runtime.models.decoder import Decoder
from runtime.models.load import load_model
from runtime.models.spec import weight_shapes
from runtime.models.weights import Weights
from tests.models.conftest import save_random_model

META = torch.device("meta")


def load(folder: Path, placement: Placement, dtype: str = "auto") -> Decoder:
    checkpoint = open_checkpoint(ModelConfig(model_path=str(folder)))
    return load_model(checkpoint, dtype=dtype, placement=placement, show_progress=False)


def placed(*, has_bfloat16: bool = True, is_invariant: bool = False, attention_backend: str = "triton") -> Placement:
    return on_device(META, has_bfloat16=has_bfloat16, is_invariant=is_invariant, attention_backend=attention_backend)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen")
    save_random_model(path, "Qwen3Config", tie_word_embeddings=True)
    return path


@pytest.mark.parametrize("is_invariant", [False, True])
def test_every_weight_is_on_the_device(folder: Path, is_invariant: bool) -> None:
    model = load(folder, placed(is_invariant=is_invariant))
    kind = InvariantLinear if is_invariant else PlainLinear
    assert isinstance(model.embedding, PlainEmbedding)
    assert isinstance(model.head, kind)
    tensors = [model.embedding.table, model.head.weight, model.final_norm]
    for layer in model.layers:
        attention = layer.attention
        tensors += [layer.input_norm, layer.mlp_norm, attention.cos_sin, attention.q_norm, attention.k_norm]
        for linear in (attention.qkv, attention.output, layer.mlp.gate_up, layer.mlp.down):
            assert isinstance(linear, kind)
            assert linear.weight.dtype is torch.bfloat16
            tensors.append(linear.weight)
    assert {tensor.device for tensor in tensors} == {META}
    assert model.dtype is torch.bfloat16
    assert not model.keeps_blocks


@pytest.mark.parametrize(
    ("name", "has_bfloat16", "dtype"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float16),
        ("half", True, torch.float16),
        ("float32", True, torch.float32),
    ],
)
def test_the_type_is_what_was_asked_for(folder: Path, name: str, has_bfloat16: bool, dtype: torch.dtype) -> None:
    model = load(folder, placed(has_bfloat16=has_bfloat16), name)
    assert (model.dtype, model.kv_shape().dtype) == (dtype, dtype)


def test_blocks_of_a_gguf_file_become_numbers(embedded_gguf: Path) -> None:
    model = load(embedded_gguf, placed())
    assert isinstance(model.layers[0].mlp.down, PlainLinear)
    assert model.layers[0].mlp.down.weight.dtype is torch.bfloat16


MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [0],
}


def test_experts_are_stacked_on_the_device(tmp_path: Path) -> None:
    save_random_model(tmp_path, "Qwen2MoeConfig", **MOE)
    model = load(tmp_path, placed(is_invariant=True))
    dense, mixture = (layer.mlp for layer in model.layers)
    assert isinstance(dense, GatedMlp)
    assert isinstance(mixture, GroupedMixture)
    assert (mixture.gate_up.shape, mixture.down.shape) == ((4, 64, 64), (4, 64, 32))
    assert {mixture.gate_up.device, mixture.down.device} == {META}
    assert mixture.is_invariant
    assert mixture.shared is not None
    assert isinstance(mixture.router, InvariantLinear)


def test_a_stack_has_the_experts_in_order_and_the_gate_first(tmp_path: Path) -> None:
    save_random_model(tmp_path, "Qwen2MoeConfig", **MOE)
    checkpoint = open_checkpoint(ModelConfig(model_path=str(tmp_path)))
    spec = spec_for(checkpoint.config)
    stored = checkpoint.tensors(weight_shapes(spec))
    weights = Weights(stored, torch.float32, tqdm(disable=True))
    stack = weights.stack([expert["gate_up"] for expert in spec.experts(1)])
    for number, expert in enumerate(stack):
        modules = (f"model.layers.1.mlp.experts.{number}.{name}_proj.weight" for name in ("gate", "up"))
        assert torch.equal(expert, torch.cat([stored[name].load() for name in modules]))


def test_random_weights_are_made_there(folder: Path) -> None:
    checkpoint = open_checkpoint(ModelConfig(model_path=str(folder), load_format="dummy"))
    assert load_model(checkpoint, placement=placed(), show_progress=False).final_norm.device == META


def test_the_attention_is_the_one_asked_for() -> None:
    assert placed().attention is paged_attention
    assert placed(attention_backend="torch_native").attention is reference.paged_attention
    invariant = placed(is_invariant=True).attention
    assert (invariant.func, invariant.keywords) == (paged_attention, {"invariant": True})  # type: ignore[attr-defined]
