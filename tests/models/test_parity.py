"""Every family against transformers: the same logits in fp32, however a sequence is cut into steps and laid out in pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from runtime.models.captured import CapturedDecoder
from runtime.models.decoder import Decoder
from tests.models.conftest import PagedRunner, PagedSequence, load_ours, save_random_model

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
YARN_OPTIONS = {"mscale": 0.7, "mscale_all_dim": 1.0, "truncate": False}
DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama-no-sharing": ("LlamaConfig", {"num_key_value_heads": None}),
    "llama-bias": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama-tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama-gelu": ("LlamaConfig", {"hidden_act": "gelu_pytorch_tanh"}),
    "llama-llama3-rope": ("LlamaConfig", {"rope_parameters": LLAMA3_ROPE}),
    "llama-linear-rope": ("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "llama-dynamic-rope": ("LlamaConfig", {"max_position_embeddings": 32, "rope_parameters": DYNAMIC_ROPE}),
    "llama-yarn-rope": ("LlamaConfig", {"rope_parameters": YARN_ROPE}),
    "llama-yarn-mscale": ("LlamaConfig", {"rope_parameters": YARN_ROPE | YARN_OPTIONS}),
    "mistral-window": ("MistralConfig", {"sliding_window": 8}),
    "mistral-head-dim": ("MistralConfig", {"sliding_window": None, "head_dim": 24}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2-window": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "qwen3-bias": ("Qwen3Config", {"head_dim": 32, "attention_bias": True}),
    "qwen3-moe": ("Qwen3MoeConfig", EXPERTS | {"head_dim": 32, "norm_topk_prob": True}),
    "qwen3-moe-dense-layers": ("Qwen3MoeConfig", EXPERTS | {"num_hidden_layers": 4, "decoder_sparse_step": 2}),
    "qwen3-moe-window": ("Qwen3MoeConfig", EXPERTS | {"use_sliding_window": True, "sliding_window": 8, "mlp_only_layers": [0]}),
    "qwen2-moe": ("Qwen2MoeConfig", EXPERTS | {"shared_expert_intermediate_size": 48}),
    "qwen2-moe-window": ("Qwen2MoeConfig", EXPERTS | {"use_sliding_window": True, "sliding_window": 8}),
    "mixtral": ("MixtralConfig", EXPERTS),
    "mixtral-window": ("MixtralConfig", EXPERTS | {"sliding_window": 8}),
    "olmoe": ("OlmoeConfig", EXPERTS | {"eos_token_id": 2}),
    "olmoe-clip": ("OlmoeConfig", EXPERTS | {"eos_token_id": 2, "clip_qkv": 1.0, "norm_topk_prob": True}),
}
NUM_TOKENS = 45
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Pair:
    """Two sequences with a common beginning of 32 tokens, and the logits that transformers gives them."""

    ours: Decoder
    captured: CapturedDecoder
    token_ids: list[list[int]]
    expected: list[torch.Tensor]  # [tokens, vocab] each


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config_class, settings = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    theirs = save_random_model(folder, config_class, **settings)
    token_ids = torch.randint(256, (2, NUM_TOKENS), generator=torch.Generator().manual_seed(2))
    token_ids[1, :32] = token_ids[0, :32]
    with torch.no_grad():
        expected = list(theirs(token_ids).logits)
    assert 0.1 < expected[0].abs().mean() < 20
    ours = load_ours(folder, num_positions=NUM_TOKENS)
    return Pair(ours, CapturedDecoder(ours), token_ids.tolist(), expected)


@pytest.fixture(params=[(16, False), (7, False), (16, True)], ids=["page16", "page7", "captured"])
def runner(request: pytest.FixtureRequest, pair: Pair) -> PagedRunner:
    page_size, is_captured = request.param
    return PagedRunner(pair.captured if is_captured else pair.ours, page_size)


def assert_close(actual: list[torch.Tensor], expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.cat(actual), expected, atol=TOLERANCE, rtol=0)


def test_whole_prefill(pair: Pair, runner: PagedRunner) -> None:
    assert_close(runner.step((PagedSequence(pair.token_ids[0]), NUM_TOKENS)), pair.expected[0])


@pytest.mark.parametrize("chunks", [[1, 44], [20, 25], [16, 16, 13], [7, 1, 30, 7]], ids=str)
def test_prefill_in_chunks(pair: Pair, runner: PagedRunner, chunks: list[int]) -> None:
    sequence = PagedSequence(pair.token_ids[0])
    assert_close([runner.step((sequence, chunk))[0] for chunk in chunks], pair.expected[0])


def test_decode_token_by_token(pair: Pair, runner: PagedRunner) -> None:
    sequence = PagedSequence(pair.token_ids[0])
    assert_close([runner.step((sequence, 1))[0] for _ in range(NUM_TOKENS)], pair.expected[0])


def test_every_model_is_captured_unless_its_tokens_choose_experts(pair: Pair) -> None:
    PagedRunner(pair.captured, 16).step((PagedSequence(pair.token_ids[0]), 1))
    assert pair.captured.is_captured != any(layer.mixture for layer in pair.ours.spec.layers)


def test_prefill_of_one_beside_decode_of_another(pair: Pair, runner: PagedRunner) -> None:
    first, second = (PagedSequence(token_ids) for token_ids in pair.token_ids)
    actual = [runner.step((first, 30)), *(runner.step((second, 15), (first, 1)) for _ in range(3))]
    actual += [runner.step((first, NUM_TOKENS - 33))]
    assert_close([step[-1] for step in actual], pair.expected[0])
    assert_close([step[0] for step in actual[1:4]], pair.expected[1])


def test_prefix_hit(pair: Pair, runner: PagedRunner) -> None:
    first = PagedSequence(pair.token_ids[0])
    runner.step((first, NUM_TOKENS))
    num_pages = 32 // runner.page_size
    cached = num_pages * runner.page_size
    second = PagedSequence(pair.token_ids[1], first.pages[:num_pages], cached)
    logits = runner.step((second, NUM_TOKENS - cached))
    assert_close(logits, pair.expected[1][cached:])
