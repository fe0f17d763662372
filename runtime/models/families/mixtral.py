"""Mixtral 8x7B and 8x22B: Mistral's attention, without a window unless the config names one, and a mixture of experts."""

from __future__ import annotations

from dataclasses import replace

from runtime.models.config_reader import ConfigReader
from runtime.models.llama_like import llama_like, with_windows
from runtime.models.mixture import mixture_spec, with_mixture
from runtime.models.spec import DecoderSpec, WeightNames

ARCHITECTURES = ("MixtralForCausalLM",)
DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096 * 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "num_local_experts": 8,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}
NAMES = WeightNames(
    router="block_sparse_moe.gate",
    expert="block_sparse_moe.experts.{}.",
    expert_gate_up=("w1", "w3"),
    expert_down="w2",
)


def spec(config: ConfigReader) -> DecoderSpec:
    plain = llama_like(config)
    layers = with_windows(plain.layers, (config.optional_size("sliding_window") or 0,) * plain.num_layers)
    mixture = mixture_spec(config, plain.intermediate_size, renormalise=True)
    return with_mixture(replace(plain, layers=layers, names=NAMES), mixture)
