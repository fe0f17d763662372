"""What most decoders share: a config with Llama's keys becomes a plain Llama block, of which a family states its deviations."""

from __future__ import annotations

from dataclasses import replace

from runtime.errors import LoadError
from runtime.models.config_reader import MAX_LAYERS, ConfigReader
from runtime.models.rope_config import context_length, rope_spec
from runtime.models.spec import Activation, DecoderSpec, LayerSpec

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
DEFAULTS = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
"""Defaults of the config classes of all families that use this module."""


def llama_like(config: ConfigReader) -> DecoderSpec:
    """A Llama block without biases, all layers with full attention. Raises `LoadError` on sizes that do not fit together."""
    num_heads = config.size("num_attention_heads")
    num_kv_heads = config.optional_size("num_key_value_heads") or num_heads
    if num_heads % num_kv_heads:
        raise LoadError(f"config.json: {num_heads} attention heads can not share {num_kv_heads} key-value heads")
    hidden_size = config.size("hidden_size")
    head_dim = config.optional_size("head_dim") or max(hidden_size // num_heads, 1)
    layer = LayerSpec(rope=rope_spec(config, head_dim))
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.size("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        layers=(layer,) * config.size("num_hidden_layers", high=MAX_LAYERS),
        context_length=context_length(config),
        norm_eps=config.number("rms_norm_eps"),
        attention_scale=head_dim**-0.5,
        activation=_activation(config),
        tied_head=config.flag("tie_word_embeddings"),
    )


def with_windows(layers: tuple[LayerSpec, ...], windows: tuple[int, ...]) -> tuple[LayerSpec, ...]:
    """`layers` with a sliding window each; 0 is none."""
    return tuple(replace(layer, window=window) for layer, window in zip(layers, windows, strict=True))


def qwen_windows(config: ConfigReader, num_layers: int) -> tuple[int, ...]:
    """Windows as Qwen's configs state them: by `layer_types`, or for the layers from `max_window_layers` on."""
    window = config.optional_size("sliding_window") if config.flag("use_sliding_window") else None
    types = config.texts("layer_types")
    if window is None:
        return (0,) * num_layers
    if types is None:
        first = config.optional_size("max_window_layers") or 0
        return tuple(window if layer >= first else 0 for layer in range(num_layers))
    if len(types) != num_layers or not set(types) <= {"full_attention", "sliding_attention"}:
        config.fail("layer_types", f"{num_layers} times full_attention or sliding_attention")
    return tuple(window if kind == "sliding_attention" else 0 for kind in types)


def _activation(config: ConfigReader) -> Activation:
    name = config.text("hidden_act")
    if name not in ACTIVATIONS:
        config.fail("hidden_act", f"one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
