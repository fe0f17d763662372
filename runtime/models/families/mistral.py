"""Mistral 7B, NeMo and Small 3. A config without `sliding_window` means 4096, one with null means none."""

from __future__ import annotations

from dataclasses import replace

from runtime.models.config_reader import ConfigReader
from runtime.models.llama_like import llama_like, with_windows
from runtime.models.spec import DecoderSpec

ARCHITECTURES = ("MistralForCausalLM",)
DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096 * 32,
}
DEFAULT_WINDOW = 4096


def spec(config: ConfigReader) -> DecoderSpec:
    plain = llama_like(config)
    window = (config.optional_size("sliding_window") or 0) if config.has("sliding_window") else DEFAULT_WINDOW
    return replace(plain, layers=with_windows(plain.layers, (window,) * plain.num_layers))
