"""Log probabilities in OpenAI's two forms, where tokens and characters do not match."""

from __future__ import annotations

import math

from runtime.http.openai_logprobs import NEVER, CompletionLogprobs, chat_logprobs
from runtime.messages import TokenLogprobs

TEXTS = {1: "né".encode(), 2: "🎭".encode()[:2], 3: "🎭".encode()[2:], 4: b"!", 5: b"\xff", 6: b"\xfe"}


def test_a_token_inside_of_a_character_begins_where_that_does() -> None:
    writer = CompletionLogprobs()
    first = writer.write(TokenLogprobs((1, 2), (-1.0, -2.0)), TEXTS)
    second = writer.write(TokenLogprobs((3, 4), (-3.0, -4.0)), TEXTS)
    assert first["text_offset"] + second["text_offset"] == [0, 2, 2, 3]
    assert first["tokens"] + second["tokens"] == ["né", "\ufffd", "\ufffd\ufffd", "!"]
    assert second["top_logprobs"] == []


def test_of_tokens_that_read_the_same_the_likelier_one_counts() -> None:
    top = ((5, -0.5), (6, -1.5), (4, -2.0))
    columns = CompletionLogprobs().write(TokenLogprobs((5,), (-0.5,), (top,)), TEXTS)
    assert columns["top_logprobs"] == [{"\ufffd": -0.5, "!": -2.0}]


def test_chats_have_the_bytes() -> None:
    logprobs = TokenLogprobs((2, 5), (-1.0, -math.inf), (((5, -0.5),), ((4, -math.inf),)))
    assert chat_logprobs(logprobs, TEXTS) == {
        "content": [
            {
                "token": "\ufffd",
                "logprob": -1.0,
                "bytes": [240, 159],
                "top_logprobs": [{"token": "\ufffd", "logprob": -0.5, "bytes": [255]}],
            },
            {
                "token": "\ufffd",
                "logprob": NEVER,
                "bytes": [255],
                "top_logprobs": [{"token": "!", "logprob": NEVER, "bytes": [33]}],
            },
        ]
    }
    assert chat_logprobs(None, {}) == {"content": []}
