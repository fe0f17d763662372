"""A model that ranks share: their parts are the whole, and together they give the logits of one rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tqdm import tqdm

from kernels.quantized_linear import unpack_rows
from runtime.config import ModelConfig
from runtime.errors import ConfigError
from runtime.layers.gloo_group import GlooGroup
from runtime.layers.parallel_linear import SummedLinear, own_product
from runtime.layers.quantized import ROUNDINGS, QuantizedLinear, can_stay_quantized
from runtime.loading.checkpoint import open_checkpoint
from runtime.loading.gguf import GgufTensor
from runtime.models.architectures import spec_for
from runtime.models.decoder import Decoder
from runtime.models.load import load_model
from runtime.models.shard import make_shard
from runtime.models.spec import DecoderSpec, WeightNames, weight_shapes
from runtime.models.weights import Weights
from tests.models.conftest import TINY, PagedRunner, PagedSequence, save_random_model
from tests.rank_pool import RankPool

THREE_GROUPS = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "head_dim": 16}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama-uneven": ("LlamaConfig", THREE_GROUPS | {"intermediate_size": 100, "vocab_size": 250}),
    "llama-bias": ("LlamaConfig", THREE_GROUPS | {"attention_bias": True, "mlp_bias": True}),
    "llama-tied-gelu": ("LlamaConfig", THREE_GROUPS | {"tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"}),
    "mistral-window": ("MistralConfig", THREE_GROUPS | {"sliding_window": 8, "head_dim": 24}),
    "qwen2-window": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3-bias": ("Qwen3Config", THREE_GROUPS | {"attention_bias": True}),
    "qwen3-moe-dense-layers": ("Qwen3MoeConfig", EXPERTS | {"decoder_sparse_step": 2}),
    "qwen2-moe": ("Qwen2MoeConfig", EXPERTS | {"shared_expert_intermediate_size": 64}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
}
NUM_RANKS = {name: (2, 3) if settings.get("num_key_value_heads") == 3 else (2,) for name, (_, settings) in MODELS.items()}
NUM_TOKENS = 40
TOLERANCE = 1e-4
VOCAB = 250


@dataclass(frozen=True)
class Rank:
    """One of some ranks, for what needs no collectives."""

    rank: int
    size: int


def parts_of(size: int, part: Callable[[Any], Any]) -> list[Any]:
    return [part(Rank(rank, size)) for rank in range(size)]


# -- together ----------------------------------------------------------------------------------------------------------


def load(path: str, group: GlooGroup | None, dtype: str = "float32") -> Decoder:
    checkpoint = open_checkpoint(ModelConfig(model_path=path))
    return load_model(checkpoint, dtype=dtype, group=group, num_positions=64, show_progress=False)


def steps(group: GlooGroup | None, path: str) -> list[torch.Tensor]:
    """The logits of a prefill in chunks, of decode steps, and of both in one batch; except on rank 0 only a part of them."""
    runner = PagedRunner(load(path, group), page_size=8)
    ids = torch.randint(VOCAB, (2, NUM_TOKENS), generator=torch.Generator().manual_seed(3)).tolist()
    first, second = (PagedSequence(token_ids) for token_ids in ids)
    logits = [runner.step((first, num_tokens)) for num_tokens in (17, 1, 7, 1)]
    logits += [
        runner.step((second, 20), (first, 1)),
        runner.step((first, 1), (second, 1)),
        runner.step((first, 12), (second, 3)),
    ]
    return [rows for step in logits for rows in step]


@pytest.mark.parametrize(
    ("name", "num_ranks"), [(name, num_ranks) for name, counts in NUM_RANKS.items() for num_ranks in counts]
)
def test_ranks_give_the_logits_of_one(rank_pool: RankPool, tmp_path: Path, name: str, num_ranks: int) -> None:
    config_class, settings = MODELS[name]
    save_random_model(tmp_path, config_class, **settings)
    expected = steps(None, str(tmp_path))
    actual, *_ = rank_pool.run(num_ranks, steps, str(tmp_path))
    assert 0.1 < torch.cat(expected).abs().mean() < 20
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="module")
def embedded_logits(embedded_gguf: Path) -> list[torch.Tensor]:
    return steps(None, str(embedded_gguf))


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_give_the_embedded_models_logits(
    rank_pool: RankPool, embedded_gguf: Path, embedded_logits: list[torch.Tensor], num_ranks: int
) -> None:
    actual, *_ = rank_pool.run(num_ranks, steps, str(embedded_gguf))
    for ours, theirs in zip(actual, embedded_logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=1e-6)


def chunks(group: GlooGroup, path: str, dtype: str) -> list[torch.Tensor]:
    """The logits of one sequence: whole, and in chunks beside another."""
    model = load(path, group, dtype)
    ids = torch.randint(VOCAB, (NUM_TOKENS,), generator=torch.Generator().manual_seed(3)).tolist()
    whole = PagedRunner(model, page_size=8).step((PagedSequence(ids), NUM_TOKENS))[0]
    runner, sequence, other = PagedRunner(model, page_size=8), PagedSequence(ids), PagedSequence(ids[::-1])
    parts = [runner.step((other, 3), (sequence, num_tokens))[1] for num_tokens in (1, 20, 1, 18)]
    return [whole, torch.cat(parts)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_does_not_depend_on_its_batch(rank_pool: RankPool, tmp_path: Path, dtype: str) -> None:
    """Bit for bit, on three ranks, where the order of a sum could matter."""
    save_random_model(tmp_path, "LlamaConfig", **THREE_GROUPS)
    (whole, parts), *_ = rank_pool.run(3, chunks, str(tmp_path), dtype)
    assert whole.shape == (NUM_TOKENS, 256)
    assert torch.equal(whole, parts)


# -- one by one --------------------------------------------------------------------------------------------------------


def random_blocks(spec: DecoderSpec, block_type: str) -> dict[str, GgufTensor]:
    """A model's weights as a GGUF file has them."""
    random, tensors = np.random.default_rng(5), {}
    for name, shape in weight_shapes(spec).items():
        kind = gguf.GGMLQuantizationType["F32" if len(shape) == 1 else block_type]
        values = random.normal(0.0, 0.2, size=shape).astype(np.float32)
        tensors[name] = GgufTensor(name, shape, kind, gguf.quantize(values, kind).view(np.uint8).reshape(-1))
    return tensors


def spec_of(**settings: Any) -> DecoderSpec:
    return spec_for({"architectures": ["LlamaForCausalLM"]} | TINY | THREE_GROUPS | settings)


def linear_of(spec: DecoderSpec, stored: dict[str, GgufTensor], role: str, rank: Any, rounding: str | None = "16") -> Any:
    own, shard = (spec, None) if rank is None else make_shard(spec, rank)
    chosen = None if rounding is None else ROUNDINGS[rounding]
    weights = Weights(stored, torch.float32, tqdm(disable=True), rounding=chosen, shard=shard)
    if role == "head":
        return own_product(weights.embedding_and_head(spec.names.embedding, spec.names.head)[1])
    return weights.linear(role, own.linears(0)[role])


def values_of(linear: Any) -> torch.Tensor:
    """Its weight [out, in] as the kernel has it, or as its products with unit vectors show it."""
    linear = own_product(linear)
    if isinstance(linear, QuantizedLinear):
        return unpack_rows(linear.packed, torch.arange(linear.packed.num_outputs))
    return linear(torch.eye(linear.panels.num_inputs)).T


@pytest.mark.skipif(not can_stay_quantized(range(64)), reason="no C compiler: weights are dequantized at load")
@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize(
    ("block_type", "rounding"), [("Q4_1", "16"), ("Q5_0", "16"), ("Q8_0", "16"), ("Q8_0", None), ("F32", None)]
)
def test_parts_of_products_are_the_whole(block_type: str, rounding: str | None, num_ranks: int) -> None:
    spec = spec_of(intermediate_size=128, head_dim=32)
    stored = random_blocks(spec, block_type)
    for role, dimension in {"output": 1, "down": 1, "head": 0}.items():
        whole = values_of(linear_of(spec, stored, role, None, rounding))
        parts = parts_of(num_ranks, lambda rank, role=role: values_of(linear_of(spec, stored, role, rank, rounding)))
        assert torch.equal(torch.cat(parts, dim=dimension), whole)
    for role, sizes in {"qkv": (192, 96, 96), "gate_up": (128, 128)}.items():
        whole = values_of(linear_of(spec, stored, role, None, rounding))
        parts = parts_of(num_ranks, lambda rank, role=role: _by_module(spec, stored, role, rank, rounding))
        for index, expected in enumerate(whole.split(sizes)):
            assert torch.equal(torch.cat([part[index] for part in parts]), expected)


def _by_module(spec: DecoderSpec, stored: dict[str, GgufTensor], role: str, rank: Any, rounding: str | None) -> list[Any]:
    rows = make_shard(spec, rank)[0].linears(0)[role].rows
    return list(values_of(linear_of(spec, stored, role, rank, rounding)).split(rows))


def test_a_product_that_is_stored_fused_is_cut_in_its_parts() -> None:
    names = WeightNames(qkv=("self_attn.qkv_proj",), gate_up=("mlp.gate_up_proj",))
    spec = spec_of()
    fused = replace(spec, names=names)
    _, shard = make_shard(fused, Rank(1, 2))  # type: ignore[arg-type]
    assert shard.cuts["model.layers.0.self_attn.qkv_proj.weight"].rows == (range(64, 96), range(128, 144), range(176, 192))
    assert shard.cuts["model.layers.0.mlp.gate_up_proj.weight"].rows == (range(32, 96), range(128, 192))


@pytest.mark.skipif(not can_stay_quantized(range(64)), reason="no C compiler: weights are dequantized at load")
def test_columns_inside_a_block_become_plain_numbers() -> None:
    spec = spec_of(num_attention_heads=8, num_key_value_heads=4, head_dim=8)  # 4, 2 and 2 heads of 8 columns; a block has 32
    stored = random_blocks(spec, "Q8_0")
    parts = parts_of(3, lambda rank: linear_of(spec, stored, "output", rank))
    assert all(isinstance(part, SummedLinear) for part in parts)
    assert [isinstance(part.product, QuantizedLinear) for part in parts] == [True, False, False]
    whole = values_of(linear_of(spec, stored, "output", None))
    assert torch.equal(torch.cat([values_of(part) for part in parts], dim=1), whole)


def test_a_bias_after_a_sum_is_added_once() -> None:
    spec = spec_of(attention_bias=True, mlp_bias=True)
    stored = random_blocks(spec, "F32")
    for rank in (Rank(0, 2), Rank(1, 2)):
        linear = linear_of(spec, stored, "down", rank)
        assert linear.bias is not None
        assert own_product(linear).bias is None


def test_a_bias_inside_a_mixture_is_rank_0s() -> None:
    """It is summed with the mixture."""
    moe = {"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 64}
    spec = replace(spec_for(TINY | moe), mlp_bias=True)
    stored = random_blocks(spec, "F32")
    biases = []
    for rank in (Rank(0, 2), Rank(1, 2)):
        own, shard = make_shard(spec, rank)  # type: ignore[arg-type]
        weights = Weights(stored, torch.float32, tqdm(disable=True), shard=shard)
        biases.append(own_product(weights.linear("expert_down", own.experts(0)[1]["down"])).bias)  # type: ignore[attr-defined]
    assert biases[0] is not None
    assert biases[1] is None


def test_heads_that_are_normed_together_are_not_shared() -> None:
    spec = spec_for({"architectures": ["OlmoeForCausalLM"]} | TINY | {"num_experts": 4, "num_experts_per_tok": 2})
    with pytest.raises(ConfigError, match="norms all heads"):
        make_shard(spec, Rank(0, 2))  # type: ignore[arg-type]


def test_too_many_ranks() -> None:
    with pytest.raises(ConfigError, match="at most 3"):
        make_shard(spec_of(), Rank(0, 4))  # type: ignore[arg-type]
