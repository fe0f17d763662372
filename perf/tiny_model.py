"""A model so small that only the server around it is measured: one layer, 128 wide, random weights, a real tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson

SIZES = {
    "num_hidden_layers": 1,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


def write_tiny_model(like: Path, folder: Path) -> None:
    """Fill `folder` with the configuration and tokenizer of the Hugging Face folder `like`, shrunk; there are no weights."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (like / name).exists():
            shutil.copy(like / name, folder / name)
    config = orjson.loads((like / "config.json").read_bytes()) | SIZES
    (folder / "config.json").write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2))
