"""Shapes: each is a config that a server can be started on, with a tokenizer as wide as its logits."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf import shapes
from runtime.config import ModelConfig
from runtime.errors import ConfigError
from runtime.loading.checkpoint import open_checkpoint


@pytest.mark.parametrize("name", shapes.names())
def test_a_shape_names_its_architecture_and_its_sizes(name: str) -> None:
    config = shapes.read(name)
    assert config["architectures"]
    assert config["hidden_size"] % config["num_attention_heads"] == 0
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0


def test_a_folder_opens_as_a_model_without_weights(tmp_path: Path) -> None:
    shapes.write_folder("tiny", tmp_path)
    checkpoint = open_checkpoint(ModelConfig(model_path=str(tmp_path), load_format="dummy"))
    vocabulary = checkpoint.vocabulary()
    assert vocabulary.num_tokens == shapes.read("tiny")["vocab_size"]
    assert vocabulary.tokenizer.decode([7, 2047], skip_special_tokens=True) == " w7 w2047"


def test_an_unknown_shape_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"llama-3\.1-8b"):
        shapes.read("llama-9")
