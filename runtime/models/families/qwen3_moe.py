"""Qwen3-MoE (30B-A3B, 235B-A22B): Qwen3's attention, and a mixture of experts in place of most feed-forward parts."""

from __future__ import annotations

from dataclasses import replace

from runtime.models.config_reader import ConfigReader
from runtime.models.llama_like import llama_like, with_windows
from runtime.models.mixture import mixture_spec, with_sparse_mixture
from runtime.models.spec import DecoderSpec

ARCHITECTURES = ("Qwen3MoeForCausalLM",)
DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}


def spec(config: ConfigReader) -> DecoderSpec:
    plain = llama_like(config)
    window = config.optional_size("sliding_window") if config.flag("use_sliding_window") else None
    layers = with_windows(plain.layers, (window or 0,) * plain.num_layers)
    has_bias = config.flag("attention_bias")
    attention = replace(plain, layers=layers, qk_norm=True, qkv_bias=has_bias, output_bias=has_bias)
    mixture = mixture_spec(config, config.size("moe_intermediate_size"), renormalise=config.flag("norm_topk_prob"))
    return with_sparse_mixture(attention, config, mixture)
