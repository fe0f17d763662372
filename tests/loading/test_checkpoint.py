"""Opening models: configs, overrides, formats, dummies, and tensors that fit the config."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from runtime.config import ModelConfig
from runtime.errors import ConfigError, LoadError
from runtime.loading.checkpoint import Checkpoint, open_checkpoint
from tests.loading.conftest import WriteGguf

CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file({"model.layers.0.a.weight": torch.ones(2, 3), "other": torch.zeros(1)}, tmp_path / "model.safetensors")
    return tmp_path


def open_folder(folder: Path, **settings: Any) -> Checkpoint:
    return open_checkpoint(ModelConfig(model_path=str(folder), **settings))


def test_a_folder(folder: Path) -> None:
    checkpoint = open_folder(folder)
    assert checkpoint.config == CONFIG
    assert checkpoint.name == str(folder)
    tensors = checkpoint.tensors({"model.layers.0.a.weight": (2, 3)})
    assert torch.equal(tensors["model.layers.0.a.weight"].load(), torch.ones(2, 3))


def test_overrides(folder: Path) -> None:
    checkpoint = open_folder(folder, json_model_override_args='{"hidden_size": 32, "new": null}')
    assert checkpoint.config == CONFIG | {"hidden_size": 32, "new": None}


@pytest.mark.parametrize("arguments", ["", "[]", "3", "{", "[" * 100_000], ids=lambda text: text[:10])
def test_wrong_overrides(folder: Path, arguments: str) -> None:
    with pytest.raises(ConfigError, match="json-model-override-args"):
        open_folder(folder, json_model_override_args=arguments)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"absent": (1,)}, "'absent' is missing"),
        ({"model.layers.0.a.weight": (3, 2)}, r"has the shape \(2, 3\)"),
        ({"model.layers.0.b.weight": (1,)}, "is missing"),
    ],
)
def test_tensors_that_do_not_fit(folder: Path, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    with pytest.raises(LoadError, match=reason):
        open_folder(folder).tensors(shapes)


def test_a_tensor_that_the_model_would_ignore(folder: Path) -> None:
    save_file(
        {"model.layers.0.a.weight": torch.ones(2, 3), "model.layers.0.a.bias": torch.ones(2)}, folder / "model.safetensors"
    )
    with pytest.raises(LoadError, match=r"no place for the tensor 'model\.layers\.0\.a\.bias'"):
        open_folder(folder).tensors({"model.layers.0.a.weight": (2, 3)})


@pytest.mark.parametrize("extra", ["model.layers.0.rotary_emb.inv_freq", "model.layers.1.a.weight", "lm_head.weight"])
def test_tensors_that_may_be_ignored(folder: Path, extra: str) -> None:
    save_file({"model.layers.0.a.weight": torch.ones(2, 3), extra: torch.ones(2)}, folder / "model.safetensors")
    assert open_folder(folder).tensors({"model.layers.0.a.weight": (2, 3)})


@pytest.mark.parametrize("content", ["", "[]", '{"a": ', "[" * 100_000, "\xff"], ids=lambda text: text[:10])
def test_a_broken_config(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(LoadError, match=r"config\.json"):
        open_folder(folder)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"has no config\.json"):
        open_folder(tmp_path)


def test_quantized_folders_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(LoadError, match="'gptq' can not be read"):
        open_folder(folder)


def test_formats_that_do_not_fit(folder: Path, write_gguf: WriteGguf) -> None:
    with pytest.raises(ConfigError, match="which is a folder"):
        open_folder(folder, load_format="gguf")
    with pytest.raises(ConfigError, match="which is a GGUF file"):
        open_folder(write_gguf(), load_format="safetensors")


def test_dummy_weights_need_only_a_config(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    shapes = {"a.weight": (50, 40), "a.bias": (40,), "norm.weight": (400,)}
    first, second = (open_folder(folder, load_format="dummy").tensors(shapes) for _ in range(2))
    weights = {name: tensor.load() for name, tensor in first.items()}
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == shapes
    assert all(torch.equal(weights[name], second[name].load()) for name in shapes)
    assert weights["a.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert weights["norm.weight"].mean() == pytest.approx(1.0, abs=0.01)


def test_the_embedded_model_is_the_default(embedded_gguf: Path) -> None:
    checkpoint = open_checkpoint(ModelConfig())
    assert checkpoint.path == embedded_gguf
    assert checkpoint.name == "SmolLM2-135M-Instruct"
    assert checkpoint.config["num_hidden_layers"] == 30
    assert checkpoint.vocabulary().num_tokens == 49152


def test_another_tokenizer(folder: Path, embedded_gguf: Path) -> None:
    checkpoint = open_folder(folder, tokenizer_path=str(embedded_gguf))
    assert checkpoint.vocabulary().num_tokens == 49152
    with pytest.raises(LoadError, match="--tokenizer-path"):
        open_folder(folder, tokenizer_path=str(folder / "absent"))


def test_opening_needs_no_torch(write_gguf: WriteGguf) -> None:
    program = (
        "import sys; from runtime.config import ModelConfig; from runtime.loading.checkpoint import open_checkpoint;"
        "open_checkpoint(ModelConfig(model_path=sys.argv[1])).config;"
        "sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(write_gguf())], check=False).returncode == 0
