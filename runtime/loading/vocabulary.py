"""What text needs to know of a model: its tokenizer, chat template, special tokens and the ids that end a turn.

Built from a Hugging Face folder or from the metadata of a GGUF file, without torch or transformers. Every problem in the files
is one `LoadError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models

from runtime.errors import LoadError
from runtime.loading import gguf_tokenizer
from runtime.loading.tokenizer_errors import library_errors_as

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

END_OF_TURN_TOKENS = (
    "<|im_end|>",  # ChatML: Qwen, SmolLM
    "<|eot_id|>",  # Llama 3
    "<|eom_id|>",
    "<|eot|>",  # Llama 4
    "<|eom|>",
    "<end_of_turn>",  # Gemma
    "<|end|>",  # Phi
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|END_OF_TURN_TOKEN|>",  # Cohere
)
"""Tokens that end a turn in the models that have them, whatever their files call the end of a sequence."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """`special_tokens` are what chat templates may name (`bos_token`, …); `eos_token_ids` end a sequence, the main one first.

    `chat_template` is Jinja source. `adds_bos`: whether encoding a text puts the BOS token before it.
    """

    tokenizer: Tokenizer
    chat_template: str | None = None
    special_tokens: dict[str, str] = field(default_factory=dict)
    eos_token_ids: tuple[int, ...] = ()
    adds_bos: bool = False

    @property
    def num_tokens(self) -> int:
        """Ids the tokenizer knows; the model's logits may be wider."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    def of_ids(self) -> Vocabulary:
        """The same for a server of token ids: no id has a text."""
        return Vocabulary(tokenizer=_mute(), eos_token_ids=self.eos_token_ids)


def from_gguf(metadata: Mapping[str, Any]) -> Vocabulary:
    """From GGUF metadata as plain Python values. Raises `LoadError`."""
    found = gguf_tokenizer.read(metadata)
    tokenizer = gguf_tokenizer.build(found)
    ids = {
        "bos_token": found.bos_token_id,
        "eos_token": found.eos_token_id,
        "unk_token": found.unknown_token_id,
        "pad_token": found.padding_token_id,
    }
    ends = [token_id for token_id in (found.eos_token_id, found.eot_token_id, found.eom_token_id) if token_id is not None]
    return Vocabulary(
        tokenizer=tokenizer,
        chat_template=found.chat_template,
        special_tokens={name: token for name, token_id in ids.items() if (token := found.token(token_id)) is not None},
        eos_token_ids=_unique(ends, _end_of_turn_ids(tokenizer)),
        adds_bos=gguf_tokenizer.adds_bos(found),
    )


def from_folder(path: Path) -> Vocabulary:
    """From a Hugging Face folder, or a tokenizer.json and what lies beside it. Raises `LoadError`."""
    folder = path.parent if path.is_file() else path
    tokenizer = _read_tokenizer(path if path.is_file() else folder / "tokenizer.json")
    config = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
    special_tokens = {name: text for name in SPECIAL_TOKEN_NAMES if (text := _content(config.get(name))) is not None}
    adds_bos = _settle_bos(tokenizer, special_tokens.get("bos_token"), config.get("add_bos_token"))
    return Vocabulary(
        tokenizer=tokenizer,
        chat_template=_read_chat_template(folder, config),
        special_tokens=special_tokens,
        eos_token_ids=_unique(_eos_ids(folder, tokenizer, special_tokens), _end_of_turn_ids(tokenizer)),
        adds_bos=adds_bos,
    )


def ids_from_folder(path: Path) -> Vocabulary:
    """Of a Hugging Face folder only the ids that end a sequence; it may have no tokenizer. Raises `LoadError`."""
    return Vocabulary(tokenizer=_mute(), eos_token_ids=_unique(_eos_ids(path, _mute(), {})))


def _mute() -> Tokenizer:
    """A tokenizer that knows no token."""
    return Tokenizer(models.WordLevel({}, unk_token=""))


def _read_tokenizer(path: Path) -> Tokenizer:
    if not path.exists():
        if (path.parent / "tokenizer.model").exists():
            raise LoadError(
                f"{path.parent} has only a sentencepiece tokenizer.model: write a tokenizer.json beside it with "
                "transformers (AutoTokenizer.from_pretrained(folder).save_pretrained(folder))"
            )
        raise LoadError(f"{path} does not exist: give the folder that has the tokenizer with --tokenizer-path")
    with library_errors_as(f"{path} is not a tokenizer"):
        tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file, or an empty one if there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path} can not be read: {error}") from error
    if not isinstance(content, dict):
        raise LoadError(f"{path} should hold a JSON object")
    return content


def _read_chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, chat_template.json or tokenizer_config.json, in that order; among named ones the default."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise LoadError(f"{folder / 'chat_template.jinja'} can not be read: {error}") from error
    found = _read_json(folder / "chat_template.json").get("chat_template", config.get("chat_template"))
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise LoadError(f"the chat template in {folder} is not a string")
    return found


def _content(token: object) -> str | None:
    """A special token is written as a string or as an object with `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _settle_bos(tokenizer: Tokenizer, bos: str | None, wanted: object) -> bool:
    """Whether encoding adds BOS; tokenizer_config.json's explicit wish overrides tokenizer.json, as in transformers."""
    bos_id = None if bos is None else tokenizer.token_to_id(bos)
    adds = bos_id is not None and tokenizer.encode("").ids[:1] == [bos_id]
    if bos_id is None or not isinstance(wanted, bool) or wanted == adds:
        return adds
    gguf_tokenizer.wrap_with(tokenizer, bos if wanted else None, None)
    return wanted


def _eos_ids(folder: Path, tokenizer: Tokenizer, special_tokens: Mapping[str, str]) -> list[int]:
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        config = _read_json(folder / name)
        nested = config.get("text_config")
        for found in (config, nested if isinstance(nested, dict) else {}):
            ids += _as_ids(found.get("eos_token_id"), folder / name)
    eos_id = tokenizer.token_to_id(special_tokens.get("eos_token", ""))
    return ids if eos_id is None else [*ids, eos_id]


def _as_ids(value: object, path: Path) -> list[int]:
    values: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    for token_id in values:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise LoadError(f"{path}: eos_token_id should be a token id or a list of them, not {value!r}")
    return values


def _end_of_turn_ids(tokenizer: Tokenizer) -> Iterator[int]:
    """Only tokens that are marked special count: anything else is text. In gpt-oss `<|end|>` ends a message, not the turn."""
    special = {token.content: token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for token in END_OF_TURN_TOKENS:
        if token in special and not (token == "<|end|>" and "<|return|>" in special):
            yield special[token]


def _unique(*groups: Iterator[int] | list[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(token_id for group in groups for token_id in group))
