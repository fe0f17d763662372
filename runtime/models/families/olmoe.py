"""OLMoE: a norm on all queries and all keys of a token as one vector, and a mixture of experts in every layer."""

from __future__ import annotations

from dataclasses import replace

from runtime.models.config_reader import ConfigReader
from runtime.models.llama_like import llama_like
from runtime.models.mixture import mixture_spec, with_mixture
from runtime.models.spec import DecoderSpec

ARCHITECTURES = ("OlmoeForCausalLM",)
DEFAULTS = {
    "vocab_size": 50304,
    "hidden_size": 2048,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "num_experts": 64,
    "num_experts_per_tok": 8,
}


def spec(config: ConfigReader) -> DecoderSpec:
    has_bias = config.flag("attention_bias")
    attention = replace(
        llama_like(config),
        qk_norm=True,
        norms_all_heads=True,
        clip_qkv=config.optional_number("clip_qkv") or 0.0,
        qkv_bias=has_bias,
        output_bias=has_bias,
    )
    mixture = mixture_spec(config, attention.intermediate_size, renormalise=config.flag("norm_topk_prob"))
    return with_mixture(attention, mixture)
