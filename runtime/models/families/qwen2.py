"""Qwen2 and Qwen2.5: biases on queries, keys and values; windows only where `use_sliding_window` says so."""

from __future__ import annotations

from dataclasses import replace

from runtime.models.config_reader import ConfigReader
from runtime.models.llama_like import llama_like, qwen_windows, with_windows
from runtime.models.spec import DecoderSpec

ARCHITECTURES = ("Qwen2ForCausalLM",)
DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def spec(config: ConfigReader) -> DecoderSpec:
    plain = llama_like(config)
    layers = with_windows(plain.layers, qwen_windows(config, plain.num_layers))
    return replace(plain, layers=layers, qkv_bias=True)
