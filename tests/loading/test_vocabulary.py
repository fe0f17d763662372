"""Vocabularies encode as transformers' do, know what ends a turn, and damaged files are one line that says so."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer, pre_tokenizers

from runtime.errors import LoadError
from runtime.loading import vocabulary
from runtime.loading.gguf import read_gguf
from runtime.loading.pre_tokenizers import PRE_TOKENIZERS
from runtime.loading.vocabulary import Vocabulary, ids_from_folder
from tests.text.conftest import BYTE_LEVEL, PIECES, SAMPLES, byte_level_metadata, sentencepiece_metadata

PREFIX = "tokenizer.ggml."

TEXTS = [
    *SAMPLES,
    "",
    " ",
    "\n",
    "\t\t\tif x:\r\n\r\n    pass",
    "3.14159 1,000,000 2024-01-31 0x1F ½ ² ٣ 1e999",
    "a  1   22    333\n\n 4",
    "don't WON'T I'm you've they'll 'tis",
    "<|im_start|>system\nYou are<|im_end|>\n<|im_start|>user\n1<|im_end|><|endoftext|>",
    "<|im_start|", "im_end|>", "<repo_name>x<filename>y",
    "https://example.com/a?b=c&d=%20#e",
    "SELECT * FROM t WHERE a<>'b';--",
    "{\"k\": [1, 2.5, null, true], \"ключ\": \"значение\"}",
    "x" * 300,
    "ab" * 200 + " " * 50,
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!",
    "ＦＵＬＬ　ＷＩＤＴＨ　１２３",
    "e\u0301 vs \u00e9, \u00a0nbsp\u2003em\u200bzero",
    "🏳️‍🌈🤦🏼‍♂️",
]  # fmt: skip


def random_texts(seed: int, num_texts: int) -> Iterator[str]:
    """Words, spaces, symbols, numbers in every second text, and any character of Unicode, mixed."""
    source = random.Random(seed)
    pools = (
        ["the", "Hello", "world", "naïve", "Straße", "你好", "мир", "I'm", "def", "return", "<|im_end|>", "<file_sep>"],
        [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u3000"],
        list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        ["1", "42", "007", "3.14", "²", "Ⅷ", "٣", "1000000"],
    )
    for index in range(num_texts):
        parts = (source.choice(source.choice(pools[: 3 + index % 2])) for _ in range(source.randrange(20)))
        strange = (chr(source.choice([source.randrange(0x80, 0xD800), source.randrange(0xE000, 0x1FFFF)])) for _ in range(3))
        yield "".join([*parts, *strange])


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text).ids)


# ---------------------------------------------------------------------------------------------------------------------
# The embedded model


@pytest.fixture(scope="module")
def embedded(embedded_gguf: Path) -> Vocabulary:
    return vocabulary.from_gguf(read_gguf(embedded_gguf).metadata)


@pytest.fixture(scope="module")
def reference(embedded_gguf: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_gguf.parent, gguf_file=embedded_gguf.name).backend_tokenizer


def test_embedded_ids_are_those_of_transformers(embedded: Vocabulary, reference: Tokenizer) -> None:
    """Its conversion forgets that SmolLM2 splits digits apart, which shows only beside numbers."""
    texts = [text for text in [*TEXTS, *random_texts(1, 600)] if not any(character.isnumeric() for character in text)]
    assert len(texts) > 200
    for text in texts:
        assert ids(embedded.tokenizer, text) == ids(reference, text), repr(text)


def test_embedded_ids_are_those_of_the_published_tokenizer(embedded: Vocabulary, reference: Tokenizer) -> None:
    """With the pre-tokenizer of SmolLM2's own tokenizer.json every text has the same ids, and they decode the same."""
    published = Tokenizer.from_str(reference.to_str())
    published.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for text in [*TEXTS, *random_texts(2, 400)]:
        found = ids(embedded.tokenizer, text)
        assert found == ids(published, text), repr(text)
        assert embedded.tokenizer.decode(found, skip_special_tokens=False) == text
        assert embedded.tokenizer.decode(found) == published.decode(found)


def test_embedded_facts(embedded: Vocabulary) -> None:
    assert embedded.num_tokens == 49152
    assert embedded.eos_token_ids[0] == 2
    assert embedded.special_tokens["bos_token"] == "<|im_start|>"
    assert not embedded.adds_bos
    assert embedded.chat_template is not None
    assert "<|im_start|>" in embedded.chat_template


# ---------------------------------------------------------------------------------------------------------------------
# GGUF metadata


def without(metadata: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key.removeprefix(PREFIX) not in names}


def with_(metadata: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return metadata | {PREFIX + name: value for name, value in fields.items()}


def write_gguf(path: Path, metadata: dict[str, Any]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_feed_forward_length(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(metadata[PREFIX + "model"])
    writer.add_token_list(metadata[PREFIX + "tokens"])
    writer.add_token_scores(metadata[PREFIX + "scores"])
    writer.add_token_types(metadata[PREFIX + "token_type"])
    writer.add_bos_token_id(metadata[PREFIX + "bos_token_id"])
    writer.add_eos_token_id(metadata[PREFIX + "eos_token_id"])
    writer.add_unk_token_id(metadata[PREFIX + "unknown_token_id"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_sentencepiece_ids_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    metadata = sentencepiece_metadata()
    write_gguf(tmp_path / "model.gguf", metadata)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf").backend_tokenizer
    ours = vocabulary.from_gguf(metadata)
    assert ours.adds_bos
    for text in [*TEXTS, "<s>the</s> a", *("".join(random.Random(seed).choices(PIECES, k=20)) for seed in range(100))]:
        found = ids(ours.tokenizer, text)
        assert found == ids(theirs, text), repr(text)
        assert ours.tokenizer.decode(found) == theirs.decode(found), repr(text)


def test_sentencepiece_prefers_the_better_score() -> None:
    tokenizer = vocabulary.from_gguf(sentencepiece_metadata()).tokenizer
    assert tokenizer.encode("the he", add_special_tokens=False).tokens == ["▁the", "▁", "he"]
    assert tokenizer.encode("athe", add_special_tokens=False).tokens == ["▁a", "t", "he"]


def test_sentencepiece_without_a_space_prefix() -> None:
    tokenizer = vocabulary.from_gguf(with_(sentencepiece_metadata(), add_space_prefix=False)).tokenizer
    assert tokenizer.encode("a a", add_special_tokens=False).tokens == ["a", "▁a"]
    assert tokenizer.decode(tokenizer.encode(" a").ids) == " a"


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["Hello", "Ġ12345", "ĠWorld", "'s", "ĠÃ©", "ĠĠ", "Ġx", "ĊĊ"]),
        ("smollm", ["Hello", "Ġ", "1", "2", "3", "4", "5", "ĠWorld", "'s", "ĠÃ©", "ĠĠ", "Ġx", "ĊĊ"]),
        ("llama-bpe", ["Hello", "Ġ", "123", "45", "ĠWorld", "'s", "ĠÃ©", "ĠĠ", "Ġx", "ĊĊ"]),
        ("qwen2", ["Hello", "Ġ", "1", "2", "3", "4", "5", "ĠWorld", "'s", "ĠÃ©", "ĠĠ", "Ġx", "ĊĊ"]),
        ("tekken", ["Hello", "Ġ", "1", "2", "3", "4", "5", "ĠWorld", "'s", "ĠÃ©", "ĠĠ", "Ġx", "ĊĊ"]),
        ("gpt-4o", ["Hello", "Ġ", "123", "45", "ĠWorld's", "ĠÃ©", "ĠĠ", "Ġx", "ĊĊ"]),
        ("deepseek-v3", ["Hello", "Ġ", "123", "45", "ĠWorld", "'s", "ĠÃ©", "ĠĠ", "Ġx", "ĊĊ"]),
        ("default", ["Hello", "Ġ", "123", "45", "ĠWorld", "'", "s", "ĠÃ©", "ĠĠ", "Ġx", "ĊĊ"]),
    ],
)
def test_pre_tokenizers_cut_as_their_models_do(pre: str, words: list[str]) -> None:
    tokenizer = vocabulary.from_gguf(with_(byte_level_metadata(), pre=pre)).tokenizer
    assert tokenizer.pre_tokenizer is not None
    found = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("Hello 12345 World's é   x\n\n")]
    assert found == words


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_keeps_every_byte(pre: str) -> None:
    tokenizer = vocabulary.from_gguf(with_(byte_level_metadata(), pre=pre)).tokenizer
    for text in TEXTS:
        composed = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
        assert tokenizer.decode(ids(tokenizer, text), skip_special_tokens=False) == composed


def test_ends_of_turn() -> None:
    found = vocabulary.from_gguf(byte_level_metadata())
    by_name = found.tokenizer.token_to_id
    assert found.eos_token_ids == (by_name("<|im_end|>"), by_name("<|endoftext|>"))
    other = vocabulary.from_gguf(with_(byte_level_metadata(), eos_token_id=5, eot_token_id=7))
    assert other.eos_token_ids[:2] == (5, 7)


def test_user_defined_tokens_are_whole_but_not_special() -> None:
    found = vocabulary.from_gguf(byte_level_metadata()).tokenizer
    think = found.token_to_id("<think>")
    assert found.encode("a<think>").ids[-1] == think
    assert found.decode([think], skip_special_tokens=True) == "<think>"


@pytest.mark.parametrize(
    ("fields", "bos"),
    [({}, False), ({"add_bos_token": True}, True), ({"pre": "llama-bpe"}, True), ({"add_bos_token": False}, False)],
)
def test_bos(fields: dict[str, Any], bos: bool) -> None:
    found = vocabulary.from_gguf(with_(byte_level_metadata(), bos_token_id=4, **fields))
    assert found.adds_bos is bos
    assert (found.tokenizer.encode("a").ids[0] == 4) is bos
    assert found.tokenizer.encode("a", add_special_tokens=False).ids[0] != 4


def test_eos_is_added_on_request() -> None:
    found = vocabulary.from_gguf(with_(byte_level_metadata(), add_eos_token=True))
    assert found.tokenizer.encode("a").ids[-1] == found.eos_token_ids[0]


BYTE, PIECE = byte_level_metadata(), sentencepiece_metadata()


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({}, "tokenizer.ggml.model"),
        (without(BYTE, "model"), "tokenizer.ggml.model"),
        (without(BYTE, "tokens"), "tokenizer.ggml.tokens"),
        (without(BYTE, "merges"), "tokenizer.ggml.merges"),
        (without(PIECE, "scores"), "tokenizer.ggml.scores"),
        (with_(BYTE, tokens="text"), "tokenizer.ggml.tokens"),
        (with_(BYTE, tokens=[1, 2, 3]), "tokenizer.ggml.tokens"),
        (with_(BYTE, tokens=[]), "for 0 tokens"),
        (with_(BYTE, merges=["a b c", 5]), "tokenizer.ggml.merges"),
        (with_(BYTE, merges=["ab"]), "tokenizer.ggml.merges"),
        (with_(BYTE, merges=["a zz"]), "damaged"),
        (with_(BYTE, token_type=[1, 2]), "2 entries in tokenizer.ggml.token_type"),
        (with_(PIECE, scores=[0.5]), "1 entries in tokenizer.ggml.scores"),
        (with_(PIECE, scores=["x"]), "tokenizer.ggml.scores"),
        (with_(BYTE, eos_token_id=10**6), "tokenizer.ggml.eos_token_id is 1000000"),
        (with_(BYTE, bos_token_id=-1), "tokenizer.ggml.bos_token_id is -1"),
        (with_(BYTE, eos_token_id="two"), "tokenizer.ggml.eos_token_id"),
        (with_(BYTE, model="bert"), "'bert'"),
        (with_(BYTE, model=None), "tokenizer.ggml.model"),
        (with_(BYTE, pre="no-such-pre"), "'no-such-pre'"),
        (BYTE | {"tokenizer.chat_template": 5}, "tokenizer.chat_template"),
    ],
)
def test_damaged_metadata_is_one_line(metadata: dict[str, Any], named: str) -> None:
    with pytest.raises(LoadError) as caught:
        vocabulary.from_gguf(metadata)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def write_folder(folder: Path, **files: Any) -> Path:
    """A folder with the small byte-level tokenizer; `tokenizer_config={…}` writes tokenizer_config.json."""
    BYTE_LEVEL.tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def token(name: str) -> int:
    found = BYTE_LEVEL.tokenizer.token_to_id(name)
    assert found is not None
    return found


IM_END, END_OF_TEXT = token("<|im_end|>"), token("<|endoftext|>")


def test_a_bare_tokenizer_is_enough(tmp_path: Path) -> None:
    found = vocabulary.from_folder(write_folder(tmp_path))
    assert ids(found.tokenizer, SAMPLES[0]) == ids(BYTE_LEVEL.tokenizer, SAMPLES[0])
    assert (found.chat_template, found.special_tokens, found.adds_bos) == (None, {}, False)
    assert found.eos_token_ids == (IM_END, END_OF_TEXT)


def test_the_tokenizer_file_itself_can_be_named(tmp_path: Path) -> None:
    path = write_folder(tmp_path, tokenizer_config={"chat_template": "x"}) / "tokenizer.json"
    assert vocabulary.from_folder(path).chat_template == "x"


def test_special_tokens_are_strings_or_objects(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<|im_start|>", "lstrip": False}, "eos_token": "<|im_end|>", "pad_token": None}
    found = vocabulary.from_folder(write_folder(tmp_path, tokenizer_config=config, special_tokens_map={"unk_token": "a"}))
    assert found.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "a"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config": {"eos_token_id": [5, 6]}}, (5, 6, IM_END, END_OF_TEXT)),
        ({"config": {"eos_token_id": 5}}, (5, IM_END, END_OF_TEXT)),
        ({"config": {"text_config": {"eos_token_id": 5}}}, (5, IM_END, END_OF_TEXT)),
        ({"generation_config": {"eos_token_id": END_OF_TEXT}, "config": {"eos_token_id": 9}}, (END_OF_TEXT, 9, IM_END)),
        ({"tokenizer_config": {"eos_token": "<|endoftext|>"}}, (END_OF_TEXT, IM_END)),
        ({"generation_config": {"eos_token_id": None}}, (IM_END, END_OF_TEXT)),
    ],
)
def test_ends_of_sequence_come_from_all_files(tmp_path: Path, files: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert vocabulary.from_folder(write_folder(tmp_path, **files)).eos_token_ids == expected


def test_the_template_file_comes_before_the_config(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    folder = write_folder(tmp_path, tokenizer_config={"chat_template": named})
    assert vocabulary.from_folder(folder).chat_template == "plain"
    write_folder(folder, chat_template={"chat_template": "json"})
    assert vocabulary.from_folder(folder).chat_template == "json"
    (folder / "chat_template.jinja").write_text("jinja")
    assert vocabulary.from_folder(folder).chat_template == "jinja"


@pytest.mark.parametrize(("wanted", "adds"), [(True, True), (False, False), (None, False)])
def test_the_config_decides_about_bos(tmp_path: Path, wanted: bool | None, adds: bool) -> None:
    config = {"bos_token": "<|im_start|>", "add_bos_token": wanted}
    found = vocabulary.from_folder(write_folder(tmp_path, tokenizer_config=config))
    assert found.adds_bos is adds
    assert (ids(found.tokenizer, "a")[0] == token("<|im_start|>")) is adds


def test_bos_of_the_tokenizer_is_kept_or_dropped(tmp_path: Path) -> None:
    config = {"bos_token": "<s>"}
    vocabulary.from_gguf(sentencepiece_metadata()).tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert vocabulary.from_folder(tmp_path).adds_bos
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": False}))
    found = vocabulary.from_folder(tmp_path)
    assert not found.adds_bos
    assert 1 not in ids(found.tokenizer, "a")


def test_padding_and_truncation_of_the_file_are_dropped(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(BYTE_LEVEL.tokenizer.to_str())
    tokenizer.enable_truncation(max_length=2)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(ids(vocabulary.from_folder(tmp_path).tokenizer, "xyzxyz")) == 6


def damage(folder: Path, name: str, content: bytes) -> Path:
    write_folder(folder)
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b""),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": 5}}'),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"\xff"),
        ("tokenizer_config.json", b"[" * 100_000),
        ("tokenizer_config.json", b'{"chat_template": 5}'),
        ("generation_config.json", b'{"eos_token_id": "x"}'),
        ("generation_config.json", b'{"eos_token_id": [1, -2]}'),
        ("generation_config.json", b'{"eos_token_id": [true]}'),
        ("chat_template.jinja", b"\xff"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(LoadError) as caught:
        vocabulary.from_folder(damage(tmp_path, name, content))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="--tokenizer-path"):
        vocabulary.from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(LoadError, match="save_pretrained"):
        vocabulary.from_folder(tmp_path)


def test_ids_alone_need_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": [7, 9]}')
    found = ids_from_folder(tmp_path)
    assert found.eos_token_ids == (7, 9)
    assert found.chat_template is None
    assert found.tokenizer.decode([1, 2, 7]) == ""
    assert found.of_ids().eos_token_ids == (7, 9)
