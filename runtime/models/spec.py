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
class MixtureSpec:
    """A feed-forward part that is a mixture of experts."""

    num_experts: int
    top_k: int
    """Experts that a token goes through."""
    intermediate_size: int
    """Of one expert."""
    renormalise: bool
    """Whether the weights of a token's experts are made to sum to 1."""
    shared_size: int = 0
    """Intermediate size of the expert that every token goes through; 0 is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """What may differ from layer to layer."""

    rope: RopeSpec
    window: int = 0
    """Tokens that a token sees, itself included; 0 is all."""
    mixture: MixtureSpec | None = None
    """None: one feed-forward part for all tokens."""


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
    router: str = "mlp.gate"
    expert: str = "mlp.experts.{}."
    expert_gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    expert_down: str = "down_proj"
    shared_gate_up: tuple[str, ...] = ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj")
    shared_down: str = "mlp.shared_expert.down_proj"
    shared_gate: str = "mlp.shared_expert_gate"


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
    norms_all_heads: bool = False
    """With `qk_norm`: the heads of a token go through it as one vector."""
    clip_qkv: float = 0.0
    """The largest that an element of queries, keys and values may be; 0 is no limit."""
    tied_head: bool = False
    """The head's weight is the embedding's."""
    names: WeightNames = WeightNames()

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def linears(self, layer: int) -> dict[str, LinearSpec]:
        """The matrix products of a layer by their role: qkv, output, gate_up, down.

        A mixture's are qkv, output, router and those of `experts`; with a shared expert also shared_gate_up, shared_down and
        shared_gate.
        """
        q_rows, kv_rows = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        prefix, names = self.names.layer.format(layer), self.names
        linears = {
            "qkv": _linear(prefix, names.qkv, (q_rows, kv_rows, kv_rows), self.hidden_size, self.qkv_bias),
            "output": _linear(prefix, (names.output,), (self.hidden_size,), q_rows, self.output_bias),
        }
        mixture = self.layers[layer].mixture
        if mixture is None:
            return linears | self._gated(prefix, names.gate_up, names.down, self.intermediate_size)
        linears["router"] = _linear(prefix, (names.router,), (mixture.num_experts,), self.hidden_size, False)
        if mixture.shared_size:
            shared = self._gated(prefix, names.shared_gate_up, names.shared_down, mixture.shared_size)
            linears |= {f"shared_{role}": linear for role, linear in shared.items()}
            linears["shared_gate"] = _linear(prefix, (names.shared_gate,), (1,), self.hidden_size, False)
        return linears

    def experts(self, layer: int) -> list[dict[str, LinearSpec]]:
        """The matrix products of each expert of a layer by their role: gate_up, down. Without a mixture there are none."""
        mixture, names = self.layers[layer].mixture, self.names
        if mixture is None:
            return []
        prefixes = (names.layer.format(layer) + names.expert.format(expert) for expert in range(mixture.num_experts))
        return [self._gated(prefix, names.expert_gate_up, names.expert_down, mixture.intermediate_size) for prefix in prefixes]

    def _gated(self, prefix: str, gate_up: tuple[str, ...], down: str, intermediate_size: int) -> dict[str, LinearSpec]:
        return {
            "gate_up": _linear(prefix, gate_up, (intermediate_size,) * 2, self.hidden_size, self.mlp_bias),
            "down": _linear(prefix, (down,), (self.hidden_size,), intermediate_size, self.mlp_bias),
        }

    def norms(self, layer: int) -> dict[str, tuple[str, int]]:
        """The norms of a layer by their role: module and width."""
        prefix, names = self.names.layer.format(layer), self.names
        norms = {
            "input_norm": (prefix + names.input_norm, self.hidden_size),
            "mlp_norm": (prefix + names.mlp_norm, self.hidden_size),
        }
        if self.qk_norm:
            num_q, num_k = (self.num_heads, self.num_kv_heads) if self.norms_all_heads else (1, 1)
            norms["q_norm"] = (prefix + names.q_norm, num_q * self.head_dim)
            norms["k_norm"] = (prefix + names.k_norm, num_k * self.head_dim)
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
        for linears in (spec.linears(layer), *spec.experts(layer)):
            for linear in linears.values():
                shapes |= dict(linear.shapes())
    return shapes
