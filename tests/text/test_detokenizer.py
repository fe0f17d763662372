"""The detokenizer actor: one text batch per step, one terminal message per request, and no crash on bad ids."""

from __future__ import annotations

import asyncio

import pytest

from runtime.actors.mailbox import Envelope
from runtime.messages import (
    Abort,
    EngineLost,
    Finish,
    Message,
    RequestFailed,
    TextBatch,
    TextOpen,
    TokenBatch,
    TokenLogprobs,
    TokenRow,
)
from runtime.params import TextOptions
from runtime.text.detokenizer import Detokenizer
from tests.text.conftest import BYTE_LEVEL, Outbox, token_id

A, B, END = (token_id(BYTE_LEVEL, token) for token in ("a", "b", "<|im_end|>"))


class Stage:
    """A detokenizer and what it has sent."""

    def __init__(self) -> None:
        self.http, self.scheduler = Outbox("http"), Outbox("scheduler")
        self.actor = Detokenizer(BYTE_LEVEL, self.http.ref, self.scheduler.ref)

    def receive(self, message: Message) -> None:
        asyncio.run(self.actor.handle(Envelope("scheduler", message)))

    def step(
        self, *rows: TokenRow, opens: tuple[int, ...] = (), closes: tuple[int, ...] = (), text: TextOptions | None = None
    ) -> list[Message]:
        """Receive one batch; returns what http got."""
        opened = tuple(
            TextOpen(request_id=i, text=text or TextOptions(), prompt_ids=(A,), num_prompt_tokens=1, num_cached_tokens=0)
            for i in opens
        )
        self.receive(TokenBatch(step_id=0, opens=opened, rows=rows, closes=closes))
        return self.http.take()


def texts(messages: list[Message]) -> list[tuple[int, str]]:
    (batch,) = messages
    assert isinstance(batch, TextBatch)
    return [(row.request_id, row.text) for row in batch.rows]


def test_one_batch_in_one_batch_out() -> None:
    assert texts(Stage().step(TokenRow(1, (A,)), TokenRow(2, (B,)), opens=(1, 2))) == [(1, "a"), (2, "b")]


def test_a_batch_without_rows_is_no_message() -> None:
    assert Stage().step(opens=(1,)) == []


def test_a_stop_string_ends_the_request_once() -> None:
    stage = Stage()
    stage.step(opens=(1,), text=TextOptions(stop=("ba",)))
    (batch,) = stage.step(TokenRow(1, (A, B, A, A)))
    assert isinstance(batch, TextBatch)
    assert (batch.rows[0].text, batch.rows[0].finish) == ("a", Finish("stop", matched="ba"))
    assert stage.scheduler.take() == [Abort(request_id=1, cause="stop_string")]
    assert stage.step(TokenRow(1, (A,)), TokenRow(1, (A,), Finish("abort"))) == []
    assert stage.actor.num_late_rows == 2
    assert stage.scheduler.take() == []


def test_a_stop_string_in_the_last_row_needs_no_abort() -> None:
    stage = Stage()
    stage.step(opens=(1,), text=TextOptions(stop=("b",)))
    (batch,) = stage.step(TokenRow(1, (A, B), Finish("length", length=2)))
    assert isinstance(batch, TextBatch)
    assert batch.rows[0].finish == Finish("stop", matched="b")
    assert stage.scheduler.take() == []


@pytest.mark.parametrize("bad", [-1, 2**31, 10**18])
def test_a_bad_token_fails_its_request_alone(bad: int) -> None:
    stage = Stage()
    failed, batch = stage.step(TokenRow(1, (bad,)), TokenRow(2, (B,)), opens=(1, 2))
    assert isinstance(failed, RequestFailed)
    assert (failed.request_id, failed.failure.status) == (1, 500)
    assert str(bad) not in failed.failure.message
    assert texts([batch]) == [(2, "b")]
    assert stage.scheduler.take() == [Abort(request_id=1, cause="stop_string")]
    assert texts(stage.step(TokenRow(1, (A,)), TokenRow(2, (A,)))) == [(2, "a")]


def test_each_request_has_its_own_options() -> None:
    stage = Stage()
    stage.step(opens=(1,), text=TextOptions(skip_special_tokens=True))
    stage.step(opens=(2,), text=TextOptions(skip_special_tokens=False))
    assert texts(stage.step(TokenRow(1, (END,)), TokenRow(2, (END,)))) == [(1, ""), (2, "<|im_end|>")]


def test_rows_after_the_end_are_late() -> None:
    stage = Stage()
    stage.step(TokenRow(1, (A,), Finish("length", length=1)), opens=(1,))
    assert stage.step(TokenRow(1, (A,)), TokenRow(99, (A,))) == []
    assert stage.actor.num_late_rows == 2


def test_a_closed_sequence_is_forgotten() -> None:
    stage = Stage()
    stage.step(opens=(1, 2))
    assert stage.step(closes=(1, 77)) == []
    assert texts(stage.step(TokenRow(1, (A,)), TokenRow(2, (B,)))) == [(2, "b")]


def test_a_lost_engine_ends_all_sequences() -> None:
    stage = Stage()
    stage.step(opens=(1, 2))
    stage.receive(EngineLost(reason="test"))
    assert stage.step(TokenRow(1, (A,)), TokenRow(2, (A,))) == []
    assert texts(stage.step(TokenRow(3, (A,)), opens=(3,))) == [(3, "a")]


def test_log_probabilities_come_with_the_bytes_of_their_tokens() -> None:
    logprobs = TokenLogprobs((A,), (-0.5,), (((A, -0.5), (B, -1.5)),))
    prompt = TokenLogprobs((B, A), (None, -2.0))
    row = TokenRow(1, (A,), logprobs=logprobs, prompt_logprobs=prompt, hidden_states=((0.5,),))
    (batch,) = Stage().step(row, TokenRow(2, (B,)), opens=(1, 2))
    assert isinstance(batch, TextBatch)
    asked, other = batch.rows
    assert (asked.logprobs, asked.prompt_logprobs, asked.hidden_states) == (logprobs, prompt, ((0.5,),))
    assert asked.token_texts == {A: b"a", B: b"b"}
    assert (other.logprobs, other.token_texts) == (None, {})
