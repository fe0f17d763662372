"""What the configs of mixture-of-experts families say alike: how many experts, how many a token gets, and in which layers."""

from __future__ import annotations

from dataclasses import replace

from runtime.errors import LoadError
from runtime.models.config_reader import ConfigReader
from runtime.models.spec import DecoderSpec, MixtureSpec

MAX_EXPERTS = 4096


def mixture_spec(config: ConfigReader, intermediate_size: int, *, renormalise: bool, shared_size: int = 0) -> MixtureSpec:
    """`num_experts` of which a token gets `num_experts_per_tok`; transformers 5 calls the first `num_local_experts`.

    Raises `LoadError` if a token gets more experts than there are.
    """
    key = "num_local_experts" if config.has("num_local_experts") else "num_experts"
    num_experts, top_k = config.size(key, high=MAX_EXPERTS), config.size("num_experts_per_tok", high=MAX_EXPERTS)
    if top_k > num_experts:
        raise LoadError(f"config.json: a token can not go through {top_k} of {num_experts} experts")
    return MixtureSpec(
        num_experts=num_experts,
        top_k=top_k,
        intermediate_size=intermediate_size,
        renormalise=renormalise,
        shared_size=shared_size,
    )


def with_mixture(spec: DecoderSpec, mixture: MixtureSpec) -> DecoderSpec:
    """`spec` with the mixture in every layer."""
    return replace(spec, layers=tuple(replace(layer, mixture=mixture) for layer in spec.layers))


def with_sparse_mixture(spec: DecoderSpec, config: ConfigReader, mixture: MixtureSpec) -> DecoderSpec:
    """As Qwen's configs state it: in every `decoder_sparse_step`-th layer, but for `mlp_only_layers`."""
    step, dense = config.size("decoder_sparse_step"), config.indices("mlp_only_layers")
    is_mixed = [(index + 1) % step == 0 and index not in dense for index in range(spec.num_layers)]
    layers = zip(spec.layers, is_mixed, strict=True)
    return replace(spec, layers=tuple(replace(layer, mixture=mixture if mixed else None) for layer, mixed in layers))
