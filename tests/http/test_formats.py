"""The formats on rows as detokenizers make them: with held back text, with endings of every kind."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from runtime.clock import SystemClock
from runtime.http.chat_format import ChatFormat
from runtime.http.completion_format import CompletionFormat
from runtime.http.generation import Generation
from runtime.http.native_format import NativeFormat
from runtime.http.openai_format import Head, OpenAiFormat
from runtime.http.schema.generate import NativeGenerations
from runtime.messages import Finish, TextRow
from runtime.params import LogprobOptions, SamplingParams, TextOptions, TextPrompt

HEAD = Head(id="x", created=1, model="m", n=1)


def row(text: str, num_tokens: int = 1, finish: Finish | None = None) -> TextRow:
    return TextRow(
        request_id=1,
        text=text,
        token_ids=(5,),
        num_completion_tokens=num_tokens,
        num_prompt_tokens=3,
        num_cached_tokens=2,
        finish=finish,
    )


def native_request(logprobs: LogprobOptions | None = None, **facts: Any) -> NativeGenerations:
    prompt = TextPrompt("hi")
    one = Generation(prompt=prompt, params=SamplingParams(), text=TextOptions(), label="x", logprobs=logprobs)
    return NativeGenerations(generations=[one], is_batch=False, **facts)


def events(data: bytes) -> list[Any]:
    return [orjson.loads(line.removeprefix(b"data: ")) for line in data.split(b"\n\n")[:-1]]


@pytest.mark.parametrize(("make_format", "num_first"), [(ChatFormat, 1), (CompletionFormat, 0)])
def test_held_back_text_makes_no_chunk_and_an_ending_always_does(make_format: type[OpenAiFormat], num_first: int) -> None:
    reply = make_format(HEAD)
    assert len(events(reply.of_row(0, row("")))) == num_first
    assert events(reply.of_row(0, row(""))) == []
    assert len(events(reply.of_row(0, row("a")))) == 1
    (end,) = events(reply.of_row(0, row("", finish=Finish("stop", matched="</s>"))))
    assert (end["choices"][0]["finish_reason"], end["choices"][0]["matched_stop"]) == ("stop", "</s>")
    assert reply.at_end() == b""


@pytest.mark.parametrize(
    ("finish", "openai", "native"),
    [
        (Finish("stop", matched=2), ("stop", 2), {"type": "stop", "matched": 2}),
        (Finish("stop", matched='"\n'), ("stop", '"\n'), {"type": "stop", "matched": '"\n'}),
        (Finish("length", length=8), ("length", None), {"type": "length", "length": 8}),
        (
            Finish("abort"),
            ("abort", None),
            {"type": "abort", "message": "the request was aborted", "status_code": None, "err_type": None},
        ),
    ],
    ids=str,
)
def test_endings(finish: Finish, openai: tuple[str, Any], native: dict[str, Any]) -> None:
    last = row("a", finish=finish)
    for make_format in (ChatFormat, CompletionFormat):
        (*_, chunk) = events(make_format(HEAD).of_row(0, last))
        for choice in (chunk["choices"][0], make_format(HEAD).whole([[last]])["choices"][0]):
            assert (choice["finish_reason"], choice["matched_stop"]) == openai
    result = NativeFormat(native_request(), SystemClock()).whole([last])
    assert result["meta_info"]["finish_reason"] == native


def test_a_prompt_with_several_choices_counts_once() -> None:
    reply = CompletionFormat(Head(id="x", created=1, model="m", n=2, reports_cache=True))
    usage = reply.whole([[row("a", num_tokens)] for num_tokens in (1, 2, 3, 4)])["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (6, 10, 16)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
