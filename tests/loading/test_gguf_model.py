"""llama.cpp's keys and names become Hugging Face's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from runtime.errors import LoadError
from runtime.loading.gguf import read_gguf
from runtime.loading.gguf_model import config_of, tensors_of
from tests.loading.conftest import FLOAT32, METADATA, STRING, UINT32, WriteGguf, f32_tensor, tensors


def llama_cpp_order(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """As convert_hf_to_gguf.py permutes queries and keys."""
    rows = weight.shape[0]
    return weight.reshape(num_heads, 2, rows // num_heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def test_config(write_gguf: WriteGguf) -> None:
    config = config_of(read_gguf(write_gguf()))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["head_dim"] == 16
    assert config["vocab_size"] == 4
    assert config["tie_word_embeddings"] is True
    assert config["attention_bias"] is False
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 10000.0}


def test_rows_of_queries_and_keys_come_back_in_order(write_gguf: WriteGguf) -> None:
    q = np.arange(32 * 32, dtype=np.float32).reshape(32, 32)
    k = np.arange(16 * 32, dtype=np.float32).reshape(16, 32)
    contents = tensors()
    contents["blk.0.attn_q.weight"] = ((32, 32), 0, llama_cpp_order(q, 2).tobytes())
    contents["blk.0.attn_k.weight"] = ((32, 16), 0, llama_cpp_order(k, 1).tobytes())
    file = read_gguf(write_gguf(contents=contents))
    restored = tensors_of(file, config_of(file))
    assert torch.equal(restored["model.layers.0.self_attn.q_proj.weight"].load(), torch.from_numpy(q))
    assert torch.equal(restored["model.layers.0.self_attn.k_proj.weight"].load(), torch.from_numpy(k))


def test_qwen_rows_stay_as_they_are(write_gguf: WriteGguf) -> None:
    metadata = {key.replace("llama.", "qwen2."): value for key, value in METADATA.items()}
    file = read_gguf(write_gguf(metadata=metadata | {"general.architecture": (STRING, "qwen2")}))
    tensor = tensors_of(file, config_of(file))["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(tensor.load(), file.tensors["blk.0.attn_q.weight"].load())


def test_an_untied_head_and_biases_are_seen(write_gguf: WriteGguf) -> None:
    contents = tensors() | {"output.weight": f32_tensor(4, 32), "blk.0.attn_q.bias": f32_tensor(32)}
    file = read_gguf(write_gguf(contents=contents))
    config = config_of(file)
    assert config["tie_word_embeddings"] is False
    assert config["attention_bias"] is True
    assert {"lm_head.weight", "model.layers.0.self_attn.q_proj.bias"} <= tensors_of(file, config).keys()


def test_rope_scaling(write_gguf: WriteGguf) -> None:
    scaling = {
        "llama.rope.freq_base": (FLOAT32, 500000.0),
        "llama.rope.scaling.type": (STRING, "yarn"),
        "llama.rope.scaling.factor": (FLOAT32, 4.0),
        "llama.rope.scaling.original_context_length": (UINT32, 16),
    }
    rope = config_of(read_gguf(write_gguf(metadata=METADATA | scaling)))["rope_parameters"]
    assert rope == {"rope_type": "yarn", "rope_theta": 500000.0, "factor": 4.0, "original_max_position_embeddings": 16}


def test_llama3_scaling_is_stored_as_factors(write_gguf: WriteGguf) -> None:
    file = read_gguf(write_gguf(contents=tensors() | {"rope_freqs.weight": f32_tensor(8)}))
    factors = config_of(file)["rope_parameters"]["frequency_factors"]
    assert factors == pytest.approx(np.linspace(-1, 1, 8))


def test_a_window_makes_it_mistral(write_gguf: WriteGguf) -> None:
    config = config_of(read_gguf(write_gguf(metadata=METADATA | {"llama.attention.sliding_window": (UINT32, 8)})))
    assert config["architectures"] == ["MistralForCausalLM"]
    assert config["sliding_window"] == 8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"llama.expert_count": (UINT32, 8)}, "mixture-of-experts"),
        ({"llama.attention.head_count": (STRING, "two")}, "must be one integer"),
        ({"llama.attention.layer_norm_rms_epsilon": (STRING, "small")}, "must be a number"),
    ],
)
def test_what_can_not_be_read_is_told(write_gguf: WriteGguf, change: dict[str, tuple[int, object]], reason: str) -> None:
    with pytest.raises(LoadError, match=reason):
        config_of(read_gguf(write_gguf(metadata=METADATA | change)))


def test_a_missing_key_is_named(write_gguf: WriteGguf) -> None:
    metadata = {key: value for key, value in METADATA.items() if key != "llama.embedding_length"}
    with pytest.raises(LoadError, match=r"llama\.embedding_length is missing"):
        config_of(read_gguf(write_gguf(metadata=metadata)))
