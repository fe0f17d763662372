"""Shapes of models as Hugging Face config.json files: what a speed depends on, without the weights.

The file name is the shape's public name. `folder` makes what a server can be started on with `--load-format dummy`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer, decoders, models

from runtime.errors import ConfigError

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """All shapes, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def read(name: str) -> dict[str, Any]:
    """The config of the shape. Raises `ConfigError` that lists what there is."""
    if name not in names():
        raise ConfigError(f"no shape {name!r}: choose one of {', '.join(names())}")
    config: dict[str, Any] = orjson.loads((FOLDER / f"{name}.json").read_bytes())
    return config


def write_folder(name: str, folder: Path) -> None:
    """Fill `folder` with the shape's config.json and a tokenizer of as many words as its logits have columns."""
    config = read(name)
    (folder / "config.json").write_bytes(orjson.dumps(config))
    _tokenizer(config["vocab_size"]).save(str(folder / "tokenizer.json"))


def _tokenizer(num_words: int) -> Tokenizer:
    """Every id is a word with a space before it, in GPT-2's bytes; it decodes as real ones do, and is not made to encode."""
    words = {f"\u0120w{word}": word for word in range(num_words)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
