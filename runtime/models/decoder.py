"""The decoder: one network for every family, built from a `DecoderSpec` and the weights of a checkpoint.

It receives ragged batches and the paged cache from the executor, writes this step's keys and values, and returns logits. It
keeps no state between steps; all that a sequence remembers is in the cache.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.gather_rows import gather_rows
from kernels.rms_norm import add_rms_norm, rms_norm
from runtime.errors import LoadError
from runtime.layers.attention import Attention
from runtime.layers.embedding import Embedding
from runtime.layers.forward import ForwardBatch, KVCache, KVShape, Queries
from runtime.layers.gated_mlp import ACTIVATIONS, GatedMlp
from runtime.layers.grouped_moe import GroupedMixture
from runtime.layers.linear import Head, Linear, PanelLinear
from runtime.layers.moe import MixtureOfExperts, SharedExpert
from runtime.layers.parallel_linear import FeedForward, own_product
from runtime.layers.placement import ON_HOST, AttentionKernel, Placement
from runtime.layers.quantized import QuantizedLinear
from runtime.layers.rotary import RopeSpec, cos_sin_table
from runtime.models.spec import DecoderSpec, MixtureSpec
from runtime.models.weights import Weights


@dataclass(frozen=True, slots=True)
class Layer:
    """Attention and feed-forward, each after a norm."""

    input_norm: Tensor  # [hidden]
    attention: Attention
    mlp_norm: Tensor  # [hidden]
    mlp: FeedForward


@dataclass(frozen=True, slots=True)
class Decoder:
    """A loaded model. `num_positions` is the longest sequence that its rope tables reach."""

    spec: DecoderSpec
    dtype: torch.dtype
    num_positions: int
    embedding: Embedding
    layers: tuple[Layer, ...]
    final_norm: Tensor  # [hidden]
    head: Head

    @property
    def computes_in_kernels(self) -> bool:
        """Whether the products run in our kernels, so that PyTorch's own threads have nothing to do."""
        return all(isinstance(own_product(linear), (QuantizedLinear, PanelLinear)) for linear in self._products())

    @property
    def can_be_captured(self) -> bool:
        """Whether a step is the same calls of our kernels for every batch; a mixture's depend on what its router chooses."""
        return self.computes_in_kernels and not any(layer.mixture for layer in self.spec.layers)

    @property
    def keeps_blocks(self) -> bool:
        """Whether weights stay quantized as they are in the file."""
        return isinstance(own_product(self.head), QuantizedLinear)

    @property
    def weight_bytes(self) -> int:
        """Memory of the products' weights; what embeddings and norms take beside them is small or the same memory."""
        return sum(linear.size_bytes for linear in self._products())

    def _products(self) -> list[Linear]:
        products: list[Linear] = [self.head]
        for layer in self.layers:
            products += [layer.attention.qkv, layer.attention.output, *layer.mlp.products]
        return products

    def kv_shape(self) -> KVShape:
        """What the executor must allocate."""
        return KVShape(self.spec.num_layers, self.spec.num_kv_heads, self.spec.head_dim, self.dtype)

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch, kv: KVCache) -> Tensor:
        """Logits [wanted, vocab] float32 of the tokens that `batch.logit_rows` names. Writes the batch's keys and values."""
        return self.logits(self.hidden_states(batch, kv))

    @torch.inference_mode()
    def hidden_states(self, batch: ForwardBatch, kv: KVCache, wanted: Queries | None = None) -> Tensor:
        """[wanted, hidden] normed output of the last layer for `batch.logit_rows`. Writes the batch's keys and values.

        Of the last layer only keys and values are computed for all tokens. wanted: `batch.wanted_queries()`, if it is at hand.
        """
        wanted = wanted or batch.wanted_queries()
        hidden, residual = self._run_layers(batch, kv)  # [tokens, hidden] each
        layer, keys, values = self.layers[-1], kv.keys[-1], kv.values[-1]
        q = layer.attention.project(hidden, batch, keys, values)  # [tokens, heads, head_dim]
        if batch.logit_rows.shape[0] == 0:
            return hidden[:0]
        q = gather_rows(q.flatten(1), batch.logit_rows).view(-1, *q.shape[1:])  # [wanted, heads, head_dim]
        residual = gather_rows(residual, batch.logit_rows)  # [wanted, hidden]
        hidden = layer.attention.attend(q, wanted, keys, values)
        hidden = layer.mlp(add_rms_norm(hidden, residual, layer.mlp_norm, self.spec.norm_eps))
        return add_rms_norm(hidden, residual, self.final_norm, self.spec.norm_eps)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, vocab] float32 from rows of `hidden_states`; a row's logits do not depend on the other rows."""
        if hidden.shape[0] == 0:
            return hidden.new_empty((0, self.spec.vocab_size), dtype=torch.float32)
        return self.head(hidden).float()

    @torch.inference_mode()
    def argmax(self, hidden: Tensor) -> Tensor:
        """[rows] int64, the first id with the largest of a row's `logits`; -1 if one is NaN or +inf, or none is a number."""
        if hidden.shape[0] == 0:
            return hidden.new_empty(0, dtype=torch.int64)
        return self.head.argmax(hidden)

    def _run_layers(self, batch: ForwardBatch, kv: KVCache) -> tuple[Tensor, Tensor]:
        """The normed input of the last layer, and the residual stream."""
        eps = self.spec.norm_eps
        residual = self.embedding(batch.token_ids)  # [tokens, hidden]
        hidden = rms_norm(residual, self.layers[0].input_norm, eps)
        for index, layer in enumerate(self.layers[:-1]):
            hidden = layer.attention(hidden, batch, kv.keys[index], kv.values[index])
            hidden = add_rms_norm(hidden, residual, layer.mlp_norm, eps)
            hidden = layer.mlp(hidden)
            hidden = add_rms_norm(hidden, residual, self.layers[index + 1].input_norm, eps)
        return hidden, residual


@torch.inference_mode()
def build_decoder(
    spec: DecoderSpec, weights: Weights, dtype: torch.dtype, num_positions: int, placement: Placement = ON_HOST
) -> Decoder:
    """Take every weight from `weights`, packed for products in `dtype`. `placement`: that of the weights."""
    ropes = {layer.rope for layer in spec.layers}
    tables = {rope: cos_sin_table(rope, num_positions).to(placement.device) for rope in ropes}
    embedding, head = weights.embedding_and_head(spec.names.embedding, None if spec.tied_head else spec.names.head)
    layers = _build_layers(spec, weights, tables, placement.attention)
    final_norm = weights.norm(spec.names.final_norm)
    return Decoder(spec, dtype, num_positions, embedding, layers, final_norm, head)


def _build_layers(
    spec: DecoderSpec, weights: Weights, tables: dict[RopeSpec, Tensor], kernel: AttentionKernel
) -> tuple[Layer, ...]:
    """One layer per thread at a time, each with one thread of torch: its many small steps do not gain from more."""
    num_threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(num_threads, "load", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return tuple(pool.map(lambda index: _build_layer(spec, index, weights, tables, kernel), range(spec.num_layers)))
    finally:
        torch.set_num_threads(num_threads)  # a thread that sets its own number sets that of later threads too


@torch.inference_mode()
def _build_layer(
    spec: DecoderSpec, index: int, weights: Weights, tables: dict[RopeSpec, Tensor], kernel: AttentionKernel
) -> Layer:
    layer = spec.layers[index]
    linears = {role: weights.linear(role, linear) for role, linear in spec.linears(index).items()}
    norms = {role: weights.norm(module) for role, (module, _) in spec.norms(index).items()}
    attention = Attention(
        qkv=linears["qkv"],
        output=linears["output"],
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        scale=spec.attention_scale,
        window=layer.window,
        cos_sin=tables[layer.rope],
        interleaved=layer.rope.interleaved,
        q_norm=norms.get("q_norm"),
        k_norm=norms.get("k_norm"),
        norm_eps=spec.norm_eps,
        norms_all_heads=spec.norms_all_heads,
        clip=spec.clip_qkv,
        kernel=kernel,
    )
    mlp = _gated(spec, linears) if layer.mixture is None else _build_mixture(spec, index, layer.mixture, linears, weights)
    return Layer(norms["input_norm"], attention, norms["mlp_norm"], mlp)


def _build_mixture(
    spec: DecoderSpec, index: int, mixture: MixtureSpec, linears: dict[str, Linear], weights: Weights
) -> FeedForward:
    if weights.placement.is_plain:
        return _build_grouped_mixture(spec, index, mixture, linears, weights)
    experts = (
        {f"expert_{role}": weights.linear(f"expert_{role}", linear) for role, linear in expert.items()}
        for expert in spec.experts(index)
    )
    return weights.mixture(
        MixtureOfExperts(
            router=linears["router"],
            experts=tuple(_gated(spec, expert, "expert_") for expert in experts),
            top_k=mixture.top_k,
            renormalise=mixture.renormalise,
            shared=_shared_expert(spec, mixture, linears),
        )
    )


def _build_grouped_mixture(
    spec: DecoderSpec, index: int, mixture: MixtureSpec, linears: dict[str, Linear], weights: Weights
) -> FeedForward:
    experts = list(spec.experts(index))
    if any(linear.has_bias for expert in experts for linear in expert.values()):
        raise LoadError("experts with a bias are not served on a GPU: use --device cpu")
    return GroupedMixture(
        router=linears["router"],
        gate_up=weights.stack([expert["gate_up"] for expert in experts]),
        down=weights.stack([expert["down"] for expert in experts]),
        activation=ACTIVATIONS[spec.activation],
        top_k=mixture.top_k,
        renormalise=mixture.renormalise,
        shared=_shared_expert(spec, mixture, linears),
        is_invariant=weights.placement.is_invariant,
    )


def _shared_expert(spec: DecoderSpec, mixture: MixtureSpec, linears: dict[str, Linear]) -> SharedExpert | None:
    return SharedExpert(_gated(spec, linears, "shared_"), linears["shared_gate"]) if mixture.shared_size else None


def _gated(spec: DecoderSpec, linears: dict[str, Linear], prefix: str = "") -> GatedMlp:
    return GatedMlp(linears[f"{prefix}gate_up"], linears[f"{prefix}down"], ACTIVATIONS[spec.activation])
