"""What a decoder costs, counted from its config.json: weights, floating-point operations, bytes that a step has to move.

It knows grouped-query and latent attention (DeepSeek's MLA, counted as absorbed into the products around it), dense and routed
feed-forward layers. Norms, biases and activations are left out: together they are below a thousandth. Counts are the least a
step needs, so what is measured can only be more: every weight and every cached number is read once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Work(NamedTuple):
    """What one step moves and computes."""

    num_bytes: float
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """Weights of one layer's feed-forward part: what every token meets, and experts of which each token meets a few."""

    shared: int
    per_expert: int = 0
    num_experts: int = 0
    num_chosen: int = 0
    """Experts per token."""

    @property
    def total(self) -> int:
        return self.shared + self.num_experts * self.per_expert

    @property
    def per_token(self) -> int:
        return self.shared + self.num_chosen * self.per_expert

    def touched(self, num_tokens: int) -> float:
        """Weights that `num_tokens` tokens are expected to meet, if they choose their experts evenly."""
        if self.num_experts == 0:
            return float(self.shared)
        missed = (1 - self.num_chosen / self.num_experts) ** num_tokens
        return self.shared + self.num_experts * (1 - missed) * self.per_expert


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Counts of numbers, not of bytes."""

    layers: tuple[FeedForward, ...]
    key_value: int
    """Weights of a layer that make a token's keys and values."""
    query_output: int
    """The rest of its attention's weights."""
    cached: int
    """Numbers that a layer keeps of a token."""
    flops_per_key: int
    """Of a layer's attention, for each pair of a token and a key that it sees."""
    head: int
    hidden: int
    is_tied: bool

    @property
    def num_weights(self) -> int:
        """In memory, the embedding counted once if it is the head too."""
        per_layer = self.key_value + self.query_output
        embedding = 0 if self.is_tied else self.head
        return sum(layer.total + per_layer for layer in self.layers) + self.head + embedding

    @property
    def cached_per_token(self) -> int:
        """Numbers that all layers keep of a token."""
        return len(self.layers) * self.cached

    def work(self, num_rows: int, context: int, num_new: int, *, weight_bytes: float, cache_bytes: float) -> Work:
        """Of a step that computes `num_new` tokens for each of `num_rows` sequences that have `context` tokens before them.

        Only the last token of each has logits, so only it goes all the way through the last layer.
        weight_bytes, cache_bytes: of one number.
        """
        num_tokens = num_rows * num_new
        num_cached = num_rows * (context + 2 * num_new)  # read with the new ones, and those written
        moved_weights = self._touched(num_tokens) + num_tokens * self.hidden
        return Work(
            num_bytes=moved_weights * weight_bytes + num_cached * self.cached_per_token * cache_bytes,
            flops=2.0 * self._products(num_tokens, num_rows) + self._attention(num_rows, context, num_new),
        )

    def _touched(self, num_tokens: int) -> float:
        per_layer = self.key_value + self.query_output
        return sum(layer.touched(num_tokens) + per_layer for layer in self.layers) + self.head

    def _products(self, num_tokens: int, num_rows: int) -> float:
        whole = sum(self.key_value + self.query_output + layer.per_token for layer in self.layers[:-1])
        last = self.query_output + self.layers[-1].per_token + self.head
        return num_tokens * (whole + self.key_value) + num_rows * last

    def _attention(self, num_rows: int, context: int, num_new: int) -> float:
        pairs = num_new * context + num_new * (num_new + 1) / 2
        last_pairs = context + num_new
        return num_rows * self.flops_per_key * ((len(self.layers) - 1) * pairs + last_pairs)


def network_of(config: Mapping[str, Any]) -> Network:
    """From the keys of a Hugging Face config.json."""
    hidden, num_layers = config["hidden_size"], config["num_hidden_layers"]
    parts = _latent_attention(config) if config.get("kv_lora_rank") else _grouped_attention(config)
    return Network(
        layers=tuple(_feed_forward(config, layer) for layer in range(num_layers)),
        head=config["vocab_size"] * hidden,
        hidden=hidden,
        is_tied=bool(config.get("tie_word_embeddings")),
        **parts,
    )


def _grouped_attention(config: Mapping[str, Any]) -> dict[str, int]:
    hidden, num_heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // num_heads
    num_kv_heads = config.get("num_key_value_heads") or num_heads
    return {
        "key_value": 2 * hidden * num_kv_heads * head_dim,
        "query_output": 2 * hidden * num_heads * head_dim,
        "cached": 2 * num_kv_heads * head_dim,
        "flops_per_key": 4 * num_heads * head_dim,
    }


def _latent_attention(config: Mapping[str, Any]) -> dict[str, int]:
    """A token's latent and its rotated part are cached; the latent's way up to heads is multiplied into query and output."""
    hidden, num_heads = config["hidden_size"], config["num_attention_heads"]
    rank, rotated = config["kv_lora_rank"], config["qk_rope_head_dim"]
    plain, value = config["qk_nope_head_dim"], config["v_head_dim"]
    q_rank, q_width = config.get("q_lora_rank"), num_heads * (plain + rotated)
    query = hidden * q_width if q_rank is None else q_rank * (hidden + q_width)
    return {
        "key_value": hidden * (rank + rotated),
        "query_output": query + rank * num_heads * (plain + value) + num_heads * value * hidden,
        "cached": rank + rotated,
        "flops_per_key": 2 * num_heads * min(2 * rank + rotated, plain + rotated + value),
    }


def _feed_forward(config: Mapping[str, Any], layer: int) -> FeedForward:
    hidden = config["hidden_size"]
    num_experts = config.get("num_experts") or config.get("n_routed_experts")
    if not num_experts or not _is_routed(config, layer):
        return FeedForward(shared=3 * hidden * config["intermediate_size"])
    per_expert = 3 * hidden * config["moe_intermediate_size"]
    return FeedForward(
        shared=hidden * num_experts + (config.get("n_shared_experts") or 0) * per_expert,
        per_expert=per_expert,
        num_experts=num_experts,
        num_chosen=config["num_experts_per_tok"],
    )


def _is_routed(config: Mapping[str, Any], layer: int) -> bool:
    if layer < config.get("first_k_dense_replace", 0) or layer in config.get("mlp_only_layers", ()):
        return False
    period = config.get("decoder_sparse_step") or config.get("moe_layer_freq") or 1
    first = 1 if config.get("decoder_sparse_step") else 0  # Qwen counts layers from 1
    return bool((layer + first) % period == 0)
