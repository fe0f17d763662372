"""Qwen3: a norm on each head's query and key, an explicit head_dim, no biases unless `attention_bias` says so."""

from __future__ import annotations

from dataclasses import replace

from runtime.models.config_reader import ConfigReader
from runtime.models.llama_like import llama_like, qwen_windows, with_windows
from runtime.models.spec import DecoderSpec

ARCHITECTURES = ("Qwen3ForCausalLM",)
DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def spec(config: ConfigReader) -> DecoderSpec:
    plain = llama_like(config)
    layers = with_windows(plain.layers, qwen_windows(config, plain.num_layers))
    has_bias = config.flag("attention_bias")
    return replace(plain, layers=layers, qk_norm=True, qkv_bias=has_bias, output_bias=has_bias)
