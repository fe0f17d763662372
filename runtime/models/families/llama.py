"""Llama 1 to 3.2, Yi, SmolLM 1 and 2, and the many models that took Llama's class."""

from __future__ import annotations

from dataclasses import replace

from runtime.models.config_reader import ConfigReader
from runtime.models.llama_like import llama_like
from runtime.models.spec import DecoderSpec

ARCHITECTURES = ("LlamaForCausalLM",)
DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}


def spec(config: ConfigReader) -> DecoderSpec:
    has_bias = config.flag("attention_bias")
    return replace(llama_like(config), qkv_bias=has_bias, output_bias=has_bias, mlp_bias=config.flag("mlp_bias"))
