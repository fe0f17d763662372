"""Qwen1.5-MoE and Qwen2-MoE: Qwen2's attention, a mixture of experts, and one more expert that every token goes through."""

from __future__ import annotations

from dataclasses import replace

from runtime.models.config_reader import ConfigReader
from runtime.models.llama_like import llama_like, qwen_windows, with_windows
from runtime.models.mixture import mixture_spec, with_sparse_mixture
from runtime.models.spec import DecoderSpec

ARCHITECTURES = ("Qwen2MoeForCausalLM",)
DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "qkv_bias": True,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "num_experts_per_tok": 4,
}


def spec(config: ConfigReader) -> DecoderSpec:
    plain = llama_like(config)
    layers = with_windows(plain.layers, _windows(config, plain.num_layers))
    mixture = mixture_spec(
        config,
        config.size("moe_intermediate_size"),
        renormalise=config.flag("norm_topk_prob"),
        shared_size=config.size("shared_expert_intermediate_size"),
    )
    return with_sparse_mixture(replace(plain, layers=layers, qkv_bias=config.flag("qkv_bias")), config, mixture)


def _windows(config: ConfigReader, num_layers: int) -> tuple[int, ...]:
    """Unlike in Qwen2, a config without `layer_types` means every other layer below `max_window_layers`."""
    if config.has("layer_types") or not config.flag("use_sliding_window"):
        return qwen_windows(config, num_layers)
    window, end = config.size("sliding_window"), config.size("max_window_layers")
    return tuple(window if layer % 2 == 0 and layer < end else 0 for layer in range(num_layers))
