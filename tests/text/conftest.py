"""Two small vocabularies, byte-level and sentencepiece with byte fallback, and a place where an actor's messages end up."""

from __future__ import annotations

from typing import Any

from tokenizers import pre_tokenizers

from runtime.actors.actor import Ref
from runtime.actors.mailbox import Mailbox
from runtime.loading import vocabulary
from runtime.loading.vocabulary import Vocabulary
from runtime.messages import Message

BYTE_MERGES = ["h e", "l l", "he ll", "Ġ w", "Ã ©", "ð Ł", "ðŁ ĺ", "a b", "ab a"]
BYTE_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PIECES = ["▁", "e", "t", "h", "a", "b", "▁t", "he", "▁the", "▁a", "!", "\n", "é", "th"]

SAMPLES = [
    "hello world, hell is other people",
    "naïve café — déjà vu",
    "你好，世界。日本語 한국어",
    "emoji 😀 and 👩‍👩‍👧‍👦 family, flag 🇩🇪",
    "a literal \ufffd replacement, and two \ufffd\ufffd at the end \ufffd",
    "  spaces   and\ttabs\n\n\nlines  ",
    "def f(x):\n    return x ** 2  # ²",
    "<|im_start|>user\nhi<|im_end|> <think>no</think>",
    "عربي עברית ไทย हिन्दी",
    "\x00\x01\x7f control",
]


def byte_level_metadata() -> dict[str, Any]:
    plain = sorted(pre_tokenizers.ByteLevel.alphabet()) + [merge.replace(" ", "") for merge in BYTE_MERGES]
    tokens = [*plain, *BYTE_SPECIAL, "<think>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": BYTE_MERGES,
        "tokenizer.ggml.token_type": [1] * len(plain) + [3] * len(BYTE_SPECIAL) + [4],
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
    }


def sentencepiece_metadata() -> dict[str, Any]:
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *PIECES]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(index) for index in range(len(PIECES))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(PIECES),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


BYTE_LEVEL = vocabulary.from_gguf(byte_level_metadata())
SENTENCEPIECE = vocabulary.from_gguf(sentencepiece_metadata())


def token_id(vocabulary: Vocabulary, token: str) -> int:
    found = vocabulary.tokenizer.token_to_id(token)
    assert found is not None, token
    return found


class Outbox:
    """Keeps what an actor tells `receiver`."""

    def __init__(self, receiver: str) -> None:
        self._mailbox = Mailbox(receiver)
        self.ref = Ref("actor", self._mailbox)

    def take(self) -> list[Message]:
        return [envelope.message for envelope in self._mailbox.clear()]


class CountingClock:
    """A wall clock that stands still and remembers how often it was read."""

    def __init__(self) -> None:
        self.num_reads = 0

    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        self.num_reads += 1
        return 1_700_000_000.0
