"""What a decoder is, as data: one `DecoderSpec` per model, which the one decoder turns into a network.

A family (runtime/models/families) makes it from a config. The invariant: whatever differs between two families of decoders is
a value here, never a branch on the family's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from runtime.layers.rotary import RopeSpec

Activation = Literal["silu", "gelu", "gelu_tanh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """What may differ from layer to layer."""

    rope: RopeSpec
    window: int = 0
    """Tokens that a token sees, itself included; 0 is all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightNames:
    """Where the weights are in a checkpoint. Modules are named without `.weight` and `.bias`.

    A fused projection is a tuple: three modules that are joined when they are loaded, or the one that is stored fused.
    """

    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    layer: str = "model.layers.{}."
    input_norm: str = "input_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    output: str = "self_attn.o_proj"
    mlp_norm: str = "post_attention_layernorm"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A decoder-only language model: embedding, layers of attention and gated feed-forward, norm, head."""

    vocab_size: int
    """Width of the logits."""
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layers: tuple[LayerSpec, ...]
    context_length: int
    """Tokens that the model was made for."""
    norm_eps: float
    attention_scale: float
    activation: Activation = "silu"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """Each head's query and key go through an RMS norm before they are rotated."""
    tied_head: bool = False
    """The head's weight is the embedding's."""
    names: WeightNames = WeightNames()

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def linears(self, layer: int) -> dict[str, LinearSpec]:
        """The matrix products of a layer by their role: qkv, output, gate_up, down."""
        q_rows, kv_rows = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        prefix, names = self.names.layer.format(layer), self.names
        qkv_rows, gate_up_rows = (q_rows, kv_rows, kv_rows), (self.intermediate_size,) * 2
        return {
            "qkv": _linear(prefix, names.qkv, qkv_rows, self.hidden_size, self.qkv_bias),
            "output": _linear(prefix, (names.output,), (self.hidden_size,), q_rows, self.output_bias),
            "gate_up": _linear(prefix, names.gate_up, gate_up_rows, self.hidden_size, self.mlp_bias),
            "down": _linear(prefix, (names.down,), (self.hidden_size,), self.intermediate_size, self.mlp_bias),
        }

    def norms(self, layer: int) -> dict[str, tuple[str, int]]:
        """The norms of a layer by their role: module and width."""
        prefix, names = self.names.layer.format(layer), self.names
        norms = {
            "input_norm": (prefix + names.input_norm, self.hidden_size),
            "mlp_norm": (prefix + names.mlp_norm, self.hidden_size),
        }
        if self.qk_norm:
            norms["q_norm"] = (prefix + names.q_norm, self.head_dim)
            norms["k_norm"] = (prefix + names.k_norm, self.head_dim)
        return norms


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """One matrix product whose rows are stored in one or more modules."""

    modules: tuple[str, ...]
    rows: tuple[int, ...]
    in_features: int
    has_bias: bool

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor of the product and its shape."""
        for module, rows in zip(self.modules, self.rows, strict=True):
            yield f"{module}.weight", (rows, self.in_features)
            if self.has_bias:
                yield f"{module}.bias", (rows,)


def _linear(prefix: str, modules: tuple[str, ...], rows: tuple[int, ...], in_features: int, has_bias: bool) -> LinearSpec:
    stored_rows = rows if len(modules) > 1 else (sum(rows),)
    return LinearSpec(tuple(prefix + module for module in modules), stored_rows, in_features, has_bias)


def weight_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor that the model needs, by its name in the checkpoint."""
    names = spec.names
    shapes: dict[str, tuple[int, ...]] = {
        f"{names.embedding}.weight": (spec.vocab_size, spec.hidden_size),
        f"{names.final_norm}.weight": (spec.hidden_size,),
    }
    if not spec.tied_head:
        shapes[f"{names.head}.weight"] = (spec.vocab_size, spec.hidden_size)
    for layer in range(spec.num_layers):
        shapes |= {f"{module}.weight": (width,) for module, width in spec.norms(layer).values()}
        for linear in spec.linears(layer).values():
            shapes |= dict(linear.shapes())
    return shapes
