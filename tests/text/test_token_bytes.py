"""The bytes of single tokens, for both kinds of vocabularies."""

from __future__ import annotations

import pytest

from runtime.loading.vocabulary import Vocabulary
from runtime.messages import TokenLogprobs
from runtime.text.token_bytes import TokenBytes
from tests.text.conftest import BYTE_LEVEL, SAMPLES, SENTENCEPIECE, token_id


@pytest.mark.parametrize("text", SAMPLES)
def test_the_bytes_of_all_tokens_are_the_text(text: str) -> None:
    ids = BYTE_LEVEL.tokenizer.encode(text).ids
    token_bytes = TokenBytes(BYTE_LEVEL.tokenizer)
    assert b"".join(token_bytes[i] for i in ids) == text.encode()


@pytest.mark.parametrize(
    ("vocabulary", "token", "expected"),
    [
        (BYTE_LEVEL, "Ġw", b" w"),
        (BYTE_LEVEL, "ð", b"\xf0"),
        (BYTE_LEVEL, "<|im_end|>", b"<|im_end|>"),
        (SENTENCEPIECE, "▁the", b" the"),
        (SENTENCEPIECE, "<0xE2>", b"\xe2"),
        (SENTENCEPIECE, "é", "é".encode()),
        (SENTENCEPIECE, "</s>", b"</s>"),
    ],
    ids=str,
)
def test_single_tokens(vocabulary: Vocabulary, token: str, expected: bytes) -> None:
    assert TokenBytes(vocabulary.tokenizer)[token_id(vocabulary, token)] == expected


def test_an_id_of_no_token_has_no_bytes() -> None:
    assert TokenBytes(BYTE_LEVEL.tokenizer)[10**6] == b""


def test_every_id_that_is_named_is_explained() -> None:
    logprobs = TokenLogprobs(
        token_ids=(1, 2), values=(None, -1.0), top=(None, ((3, -0.5), (2, -1.0))), chosen=(None, ((4, -9.0), (1, -8.0)))
    )
    assert TokenBytes(BYTE_LEVEL.tokenizer).of(None, logprobs).keys() == {1, 2, 3, 4}
