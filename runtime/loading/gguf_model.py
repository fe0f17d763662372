"""What a GGUF file says in llama.cpp's words, said in Hugging Face's: the config and the tensor names of a decoder.

Receives a `GgufFile`; the config has the keys of a config.json and the tensors the names that transformers gives them, so
that nothing after this module knows where a model came from. Names and keys: gguf.constants, and llama.cpp's
convert_hf_to_gguf.py, whose permutation of the llama architecture's query and key rows is undone here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from runtime.errors import LoadError
from runtime.loading.gguf import GgufFile, GgufTensor

ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
}
"""GGUF architecture → model_type and architecture in a config.json. Mistral is stored as llama."""

MODEL_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"
SCALING_KEYS = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
PERMUTED_ARCHITECTURES = {"llama"}

_LAYER_TENSOR = re.compile(r"blk\.(\d{1,9})\.(\w+)\.(weight|bias)")


def config_of(file: GgufFile) -> dict[str, Any]:
    """The model as a config.json would describe it. Raises `LoadError` on an unknown architecture or a missing key."""
    architecture = _architecture(file)
    keys = _Keys(file, architecture)
    model_type, name = ARCHITECTURES[architecture]
    if keys.integer("expert_count", 0):
        raise LoadError(f"{file.path}: mixture-of-experts models can not be read from GGUF files")
    num_heads = keys.integer("attention.head_count")
    hidden_size = keys.integer("embedding_length")
    config = {
        "architectures": [name],
        "model_type": model_type,
        "hidden_size": hidden_size,
        "num_hidden_layers": _num_layers(file, keys),
        "intermediate_size": keys.integer("feed_forward_length"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv", num_heads),
        "head_dim": keys.integer("attention.key_length", hidden_size // max(num_heads, 1)),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": keys.integer("context_length"),
        "rope_parameters": _rope_parameters(file, keys),
        "vocab_size": _tensor(file, "token_embd.weight").shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "hidden_act": "silu",
    }
    return config | _sliding_window(keys, architecture) | _special_token_ids(file.metadata)


def tensors_of(file: GgufFile, config: Mapping[str, Any]) -> dict[str, GgufTensor]:
    """The tensors under the names that transformers gives them, their rows in the order that it expects."""
    tensors = {}
    for stored_name, tensor in file.tensors.items():
        name = _hugging_face_name(stored_name)
        if name is not None:
            tensors[name] = replace(tensor, name=name)
    if _architecture(file) in PERMUTED_ARCHITECTURES:
        _restore_row_order(tensors, config)
    return tensors


class _Keys:
    """The metadata of one architecture; every value is checked for its type."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self.file = file
        self.architecture = architecture

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default)
        if type(value) is not int:
            raise LoadError(f"{self.file.path}: {self.architecture}.{key} must be one integer, not {value!r:.60}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if type(value) not in (int, float):
            raise LoadError(f"{self.file.path}: {self.architecture}.{key} must be a number, not {value!r:.60}")
        return float(value)

    def _value(self, key: str, default: Any) -> Any:
        value = self.file.metadata.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise LoadError(f"{self.file.path}: the metadata key {self.architecture}.{key} is missing")
        return value


def _architecture(file: GgufFile) -> str:
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise LoadError(f"{file.path}: the GGUF architecture {architecture!r:.60} is not supported: {known} are")
    return architecture


def _num_layers(file: GgufFile, keys: _Keys) -> int:
    """The block count, which must be that of the tensors: a wrong one would ask for layers without end."""
    num_layers = keys.integer("block_count")
    layers = {int(match[1]) for match in map(_LAYER_TENSOR.fullmatch, file.tensors) if match}
    if num_layers != len(layers) or layers != set(range(len(layers))):
        raise LoadError(f"{file.path}: block_count is {num_layers}, but there are tensors of {len(layers)} layers")
    return num_layers


def _rope_parameters(file: GgufFile, keys: _Keys) -> dict[str, Any]:
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": keys.number("rope.freq_base", 10000.0)}
    kind = file.metadata.get(f"{keys.architecture}.rope.scaling.type", "none")
    if kind != "none":
        parameters["rope_type"] = kind
        for stored_name, name in SCALING_KEYS.items():
            value = file.metadata.get(f"{keys.architecture}.rope.scaling.{stored_name}")
            if value is not None:
                parameters[name] = value
    if ROPE_FACTORS in file.tensors:  # Llama 3.1's scaling, stored as what each frequency is divided by
        parameters["frequency_factors"] = file.tensors[ROPE_FACTORS].load().flatten().tolist()
    return parameters


def _sliding_window(keys: _Keys, architecture: str) -> dict[str, Any]:
    window = keys.integer("attention.sliding_window", 0)
    if window and architecture == "llama":
        return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
    return {}


def _special_token_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    names = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
    stored = {name: metadata.get(f"tokenizer.ggml.{short}_token_id") for short, name in names.items()}
    return {name: token_id for name, token_id in stored.items() if token_id is not None}


def _tensor(file: GgufFile, name: str) -> GgufTensor:
    if name not in file.tensors:
        raise LoadError(f"{file.path}: the tensor {name!r} is missing; download it again")
    return file.tensors[name]


def _hugging_face_name(stored_name: str) -> str | None:
    if match := _LAYER_TENSOR.fullmatch(stored_name):
        layer, module, kind = match.groups()
        return f"model.layers.{int(layer)}.{LAYER_NAMES.get(module, module)}.{kind}"
    module, _, kind = stored_name.rpartition(".")
    return f"{MODEL_NAMES[module]}.{kind}" if module in MODEL_NAMES else None


def _restore_row_order(tensors: dict[str, GgufTensor], config: Mapping[str, Any]) -> None:
    for module, num_heads in (("q_proj", config["num_attention_heads"]), ("k_proj", config["num_key_value_heads"])):
        for name, tensor in tensors.items():
            if f".{module}." in name:
                tensors[name] = replace(tensor, row_order=_row_order(name, tensor.shape[0], num_heads))


def _row_order(name: str, num_rows: int, num_heads: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """llama.cpp stores each head's rows as pairs (i, i + head_dim/2); transformers wants the first halves first."""
    if num_heads < 1 or num_rows % (2 * num_heads):
        raise LoadError(f"tensor {name!r} has {num_rows} rows, which are not those of {num_heads} heads")
    stored = np.arange(num_rows).reshape(num_heads, num_rows // num_heads // 2, 2)
    return stored.swapaxes(1, 2).reshape(-1)
