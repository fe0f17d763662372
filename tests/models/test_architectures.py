"""From a config.json to a spec: families by architecture, defaults of keys that are absent, refusal of what can not be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime import extensions
from runtime.errors import LoadError
from runtime.models.architectures import FAMILIES, spec_for

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.mark.parametrize("name", extensions.names(FAMILIES))
def test_every_family_reads_a_config_of_defaults(name: str) -> None:
    family = extensions.load(FAMILIES, name)
    for architecture in family.ARCHITECTURES:
        spec = spec_for({"architectures": [architecture]})
        assert spec.num_heads % spec.num_kv_heads == 0
        assert spec.vocab_size > 1000


def test_no_two_families_serve_one_architecture() -> None:
    served = [name for family in extensions.names(FAMILIES) for name in extensions.load(FAMILIES, family).ARCHITECTURES]
    assert len(served) == len(set(served))


def test_keys_that_are_absent_have_their_class_defaults() -> None:
    def windows(**changes: Any) -> set[int]:
        return {layer.window for layer in spec_for(LLAMA | changes).layers}

    assert windows(architectures=["MistralForCausalLM"]) == {4096}
    assert windows(architectures=["MistralForCausalLM"], sliding_window=None) == {0}
    assert windows(architectures=["Qwen2ForCausalLM"], sliding_window=8) == {0}
    assert windows(architectures=["Qwen2ForCausalLM"], sliding_window=8, use_sliding_window=True, max_window_layers=1) == {0, 8}
    assert spec_for(LLAMA | {"architectures": ["Qwen3ForCausalLM"]}).head_dim == 128
    assert spec_for(LLAMA | {"num_key_value_heads": None}).num_kv_heads == 4


def test_layers_with_experts() -> None:
    def mixed(**changes: Any) -> list[bool]:
        config = LLAMA | {"architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 6} | changes
        return [layer.mixture is not None for layer in spec_for(config).layers]

    assert mixed() == [True] * 6
    assert mixed(mlp_only_layers=[0, 4]) == [False, True, True, True, False, True]
    assert mixed(decoder_sparse_step=3, mlp_only_layers=None) == [False, False, True] * 2


def test_both_names_for_the_number_of_experts() -> None:
    qwen, mixtral = ({"architectures": [name]} for name in ("Qwen3MoeForCausalLM", "MixtralForCausalLM"))
    for config, default in ((qwen, 128), (mixtral, 8)):
        for changes, expected in (({}, default), ({"num_experts": 16}, 16), ({"num_local_experts": 16}, 16)):
            mixture = spec_for(LLAMA | config | changes).layers[0].mixture
            assert mixture is not None
            assert mixture.num_experts == expected


def test_windows_of_qwen2_moe() -> None:
    windowed = LLAMA | {"architectures": ["Qwen2MoeForCausalLM"], "num_hidden_layers": 5, "sliding_window": 8}

    def windows(**changes: Any) -> list[int]:
        return [layer.window for layer in spec_for(windowed | changes).layers]

    assert windows() == [0] * 5
    assert windows(use_sliding_window=True, max_window_layers=4) == [8, 0, 8, 0, 0]
    types = ["full_attention"] * 4 + ["sliding_attention"]
    assert windows(use_sliding_window=True, layer_types=types) == [0, 0, 0, 0, 8]


@pytest.mark.parametrize(
    "change",
    [
        {"num_experts": 0},
        {"num_experts": 2**20},
        {"num_experts": 4, "num_experts_per_tok": 5},
        {"moe_intermediate_size": None, "num_experts_per_tok": 0},
        {"mlp_only_layers": [-1]},
        {"mlp_only_layers": 3},
        {"decoder_sparse_step": 0},
        {"norm_topk_prob": 1},
    ],
    ids=json.dumps,
)
def test_impossible_mixtures_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(LoadError):
        spec_for(LLAMA | {"architectures": ["Qwen3MoeForCausalLM"]} | change)


def test_both_spellings_of_rope() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    old = spec_for(LLAMA | {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **scaling}})
    new = spec_for(LLAMA | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **scaling}})
    assert old == new
    assert old.layers[0].rope.theta == 5e5
    assert spec_for(LLAMA | {"rope_theta": 5e5, "rope_scaling": None}).layers[0].rope.kind == "default"


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 512),
        ({"rope_type": "dynamic", "factor": 4.0}, 512),
        ({"rope_type": "yarn", "factor": 4.0}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"rope_type": "llama3", "factor": 4.0}, 128),
        ({"rope_type": "default"}, 128),
    ],
    ids=str,
)
def test_context_length(rope: dict[str, Any], expected: int) -> None:
    assert spec_for(LLAMA | {"rope_parameters": rope}).context_length == expected


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"])
@pytest.mark.parametrize("value", [0, -1, 2**31, 2**63, 1.5, "64", True, [64], float("nan")], ids=str)
def test_impossible_sizes_are_refused(key: str, value: object) -> None:
    with pytest.raises(LoadError, match=key):
        spec_for(LLAMA | {key: value})


@pytest.mark.parametrize(
    "change",
    [
        {"num_key_value_heads": 3},
        {"hidden_act": "relu"},
        {"rms_norm_eps": float("inf")},
        {"rms_norm_eps": 0},
        {"head_dim": 15},
        {"tie_word_embeddings": "yes"},
        {"rope_parameters": []},
        {"rope_scaling": {"type": "mrope"}},
        {"rope_scaling": {"type": "linear", "factor": 0}},
        {"rope_theta": 0},
        {"rope_parameters": {"frequency_factors": [1.0]}},
        {"rope_parameters": {"partial_rotary_factor": 2.0}},
        {"max_position_embeddings": 2**31},
        {"architectures": "LlamaForCausalLM"},
    ],
    ids=json.dumps,
)
def test_impossible_values_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(LoadError):
        spec_for(LLAMA | change)


def test_an_unknown_architecture_is_named_with_those_that_are_served() -> None:
    with pytest.raises(LoadError, match=r"MambaForCausalLM is not supported: .*LlamaForCausalLM"):
        spec_for({"architectures": ["MambaForCausalLM"]})
    with pytest.raises(LoadError, match="code that comes with a model is not run"):
        spec_for({"architectures": ["OwnForCausalLM"], "auto_map": {"AutoModelForCausalLM": "own.OwnForCausalLM"}})
    with pytest.raises(LoadError, match="of the model is not supported"):
        spec_for({})


def test_remote_code_is_not_needed_for_what_is_served() -> None:
    spec_for(LLAMA | {"auto_map": {"AutoModelForCausalLM": "own.OwnForCausalLM"}})
