"""The table of open requests: whatever comes in whatever order, each request ends exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from runtime.actors.actor import Ref
from runtime.actors.mailbox import Mailbox
from runtime.errors import ContextLengthExceeded, DeadlineExceeded, InternalError, Overloaded, RequestError, Unavailable
from runtime.http.generation import Generation
from runtime.http.replies import Replies
from runtime.http.reply import Bell, Reply
from runtime.http.server import Http
from runtime.messages import (
    Abort,
    EngineLost,
    Finish,
    Message,
    PeerRestarted,
    RequestFailed,
    RequestStats,
    TextBatch,
    TextRow,
    Tokenize,
    Tokenized,
)
from runtime.params import SamplingParams, TextOptions, TextPrompt


class HandClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.now_s


class Table:
    """Replies whose tokenizer and metrics are bare mailboxes."""

    def __init__(self, *, max_open: int = 100, request_timeout_s: float | None = None, capacity: int = 4096) -> None:
        self.clock = HandClock()
        self.tokenizer = Mailbox("tokenizer", capacity)
        self.metrics = Mailbox("metrics", capacity)
        self.replies = Replies(
            Ref("http", self.tokenizer),
            Ref("http", self.metrics),
            self.clock,
            max_open=max_open,
            request_timeout_s=request_timeout_s,
        )
        self.http = Http(self.replies)

    def submit(self, *, is_streaming: bool = False, bell: Bell | None = None, **options: object) -> Reply:
        generation = Generation(prompt=TextPrompt("hello"), params=SamplingParams(), text=TextOptions(), **options)  # type: ignore[arg-type]
        return self.replies.submit(generation, is_streaming=is_streaming, bell=bell)

    def text(self, reply: Reply, text: str, *, num_tokens: int = 1, finish: Finish | None = None) -> None:
        row = TextRow(
            request_id=reply.request_id,
            text=text,
            token_ids=tuple(range(num_tokens)),
            num_completion_tokens=num_tokens,
            num_prompt_tokens=7,
            num_cached_tokens=3,
            finish=finish,
        )
        self.replies.deliver(TextBatch(rows=(row,)))

    def sent(self) -> list[Message]:
        return [envelope.message for envelope in self.tokenizer.clear()]

    def aborts(self) -> list[tuple[int, str]]:
        return [(message.request_id, message.cause) for message in self.sent() if isinstance(message, Abort)]

    def stats(self) -> list[RequestStats]:
        return [envelope.message for envelope in self.metrics.clear()]  # type: ignore[misc]


STOP = Finish("stop", matched=2)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(bounded())


async def rows_of(reply: Reply) -> list[TextRow]:
    return [row async for row in reply]


def test_a_request_is_sent_to_the_tokenizer_and_its_rows_come_back() -> None:
    async def test() -> None:
        table = Table()
        reply = table.submit(priority=4)
        (message,) = table.sent()
        assert isinstance(message, Tokenize)
        assert (message.request_id, message.priority, message.arrived) == (reply.request_id, 4, 100.0)
        reader = asyncio.create_task(rows_of(reply))
        await asyncio.sleep(0)
        table.text(reply, "a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        table.text(reply, "b", finish=STOP)
        assert [(row.text, row.finish) for row in await reader] == [("a", None), ("b", STOP)]
        assert table.replies.num_open == 0
        assert not table.sent()

    run(test)


def test_rows_that_wait_are_handed_over_as_one() -> None:
    async def test() -> None:
        table = Table()
        reply = table.submit()
        table.text(reply, "a", num_tokens=1)
        table.text(reply, "b", num_tokens=2)
        table.text(reply, "c", num_tokens=1, finish=STOP)
        (row,) = await rows_of(reply)
        assert (row.text, row.token_ids, row.finish) == ("abc", (0, 0, 1, 0), STOP)

    run(test)


def test_a_bell_rings_when_enough_tokens_wait() -> None:
    async def test() -> None:
        table = Table()
        bell = Bell(min_tokens=3)
        first, second = table.submit(bell=bell), table.submit(bell=bell)
        waiting = asyncio.create_task(bell.wait())
        table.text(first, "a", num_tokens=2)
        await asyncio.sleep(0)
        assert not waiting.done()
        table.text(first, "b", num_tokens=1)
        table.text(second, "c", finish=STOP)
        assert await waiting == [first, second]
        assert first.take().text == "ab"

    run(test)


@pytest.mark.parametrize("after", ["nothing", "text", "the end", "a failure", "a cancel"])
def test_cancel_aborts_once_and_only_what_is_open(after: str) -> None:
    async def test() -> None:
        table = Table()
        reply = table.submit()
        if after == "text":
            table.text(reply, "a")
        if after == "the end":
            table.text(reply, "a", finish=STOP)
        if after == "a failure":
            table.replies.fail(RequestFailed(request_id=reply.request_id, failure=InternalError("x").failure))
        reply.cancel("disconnect")
        reply.cancel("disconnect")
        was_open = after in ("nothing", "text", "a cancel")
        assert table.aborts() == ([(reply.request_id, "disconnect")] if was_open else [])
        assert len(table.stats()) == 1
        assert table.replies.num_open == 0
        if was_open:
            rows = await rows_of(reply)
            assert [row.finish for row in rows] == [Finish("abort")]
            assert rows[0].num_prompt_tokens == (7 if after == "text" else 0)

    run(test)


def test_late_rows_and_failures_are_counted_and_dropped() -> None:
    async def test() -> None:
        table = Table()
        reply = table.submit()
        reply.cancel("disconnect")
        table.text(reply, "late")
        table.replies.fail(RequestFailed(request_id=reply.request_id, failure=InternalError("x").failure))
        assert table.replies.num_late_rows == 2
        assert [row.text for row in await rows_of(reply)] == [""]
        assert len(table.stats()) == 1

    run(test)


def test_a_failure_is_raised_with_all_it_says() -> None:
    async def test() -> None:
        table = Table()
        reply = table.submit()
        failure = ContextLengthExceeded("too long", param="prompt").failure
        table.replies.fail(RequestFailed(request_id=reply.request_id, failure=failure))
        with pytest.raises(RequestError) as caught:
            await rows_of(reply)
        assert caught.value.failure == failure
        assert await rows_of(reply) == []
        assert [stats.outcome for stats in table.stats()] == ["failed"]
        assert not table.aborts()

    run(test)


def test_the_deadline_aborts_and_fails() -> None:
    async def test() -> None:
        table = Table(request_timeout_s=0.01)
        slow, quick = table.submit(), table.submit()
        table.text(quick, "a", finish=STOP)
        with pytest.raises(DeadlineExceeded):
            await rows_of(slow)
        assert table.aborts() == [(slow.request_id, "deadline")]
        assert [row.text for row in await rows_of(quick)] == ["a"]
        assert [stats.outcome for stats in table.stats()] == ["finished", "failed"]

    run(test)


def test_too_many_requests_are_refused_and_the_table_recovers() -> None:
    async def test() -> None:
        table = Table(max_open=2)
        first, _ = table.submit(), table.submit()
        with pytest.raises(Overloaded) as caught:
            table.submit()
        assert caught.value.failure.code == "queue_full"
        assert 1 <= (caught.value.failure.retry_after or 0) <= 60
        first.cancel("disconnect")
        table.submit()
        assert table.replies.num_open == 2

    run(test)


def test_retry_after_follows_the_latency() -> None:
    async def test() -> None:
        table = Table(max_open=1)
        for _ in range(60):
            reply = table.submit()
            table.clock.now_s += 20.0
            table.text(reply, "a", finish=STOP)
        table.submit()
        with pytest.raises(Overloaded) as caught:
            table.submit()
        assert caught.value.failure.retry_after == 20

    run(test)


def test_a_full_tokenizer_refuses_requests_but_loses_no_abort() -> None:
    async def test() -> None:
        table = Table(capacity=1)
        reply = table.submit()
        with pytest.raises(Overloaded):
            table.submit()
        assert table.replies.num_open == 1
        reply.cancel("disconnect")
        assert table.aborts() == []  # the mailbox was full of its Tokenize, which `aborts` took out
        (envelope,) = await table.tokenizer.drain()
        assert envelope.message == Abort(request_id=reply.request_id, cause="disconnect")

    run(test)


def test_a_full_metrics_mailbox_costs_no_request() -> None:
    async def test() -> None:
        table = Table(capacity=2)
        for _ in range(4):
            reply = table.submit()
            table.sent()
            table.text(reply, "a", finish=STOP)
            assert [row.text for row in await rows_of(reply)] == ["a"]
        assert len(table.stats()) == 2

    run(test)


def test_statistics_are_those_of_the_request() -> None:
    async def test() -> None:
        table = Table()
        reply = table.submit(is_streaming=True)
        table.clock.now_s += 2.0
        table.text(reply, "a")
        table.clock.now_s += 3.0
        table.text(reply, "b", num_tokens=9, finish=STOP)
        hidden = table.submit(is_counted=False)
        table.text(hidden, "b", finish=STOP)
        waiting = table.submit()
        waiting.cancel("api")
        assert table.stats() == [
            RequestStats(
                outcome="finished",
                num_prompt_tokens=7,
                num_completion_tokens=9,
                num_cached_tokens=3,
                is_streaming=True,
                e2e_s=5.0,
                ttft_s=2.0,
            ),
            RequestStats(
                outcome="aborted",
                num_prompt_tokens=0,
                num_completion_tokens=0,
                num_cached_tokens=0,
                is_streaming=False,
                e2e_s=0.0,
            ),
        ]

    run(test)


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        (EngineLost(reason="secret /path"), {"new", "answered"}),
        (PeerRestarted(name="detokenizer"), {"new", "answered"}),
        (PeerRestarted(name="http"), {"new", "answered"}),
    ],
    ids=str,
)
def test_what_a_restart_costs(message: Message, lost: set[str]) -> None:
    async def test() -> None:
        table = Table()
        replies = {"new": table.submit(), "answered": table.submit()}
        table.text(replies["answered"], "a")
        await Http.handlers[type(message)](table.http, message)
        assert {name for name, reply in replies.items() if not reply.is_open} == lost
        assert table.aborts() == [(replies[name].request_id, "restart") for name in replies if name in lost]
        for name in lost:
            with pytest.raises(Unavailable) as caught:
                await rows_of(replies[name])
            assert (caught.value.failure.code, caught.value.failure.retry_after) == ("engine_restarting", 5)
            assert "secret" not in caught.value.failure.message

    run(test)


def test_draining_refuses_new_requests_and_waits_for_the_open_ones() -> None:
    async def test() -> None:
        table = Table()
        replies = [table.submit(), table.submit()]
        table.replies.refuse()
        with pytest.raises(Unavailable) as caught:
            table.submit()
        assert caught.value.failure.code == "draining"
        waiting = asyncio.create_task(table.replies.wait_idle(5.0))
        for reply in replies:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not waiting.done()
            table.text(reply, "a", finish=STOP)
        assert await waiting == 0

    run(test)


def test_draining_cuts_what_does_not_end_in_time() -> None:
    async def test() -> None:
        table = Table()
        replies = [table.submit(), table.submit()]
        table.replies.refuse()
        assert await table.replies.wait_idle(0.0) == 2
        assert table.aborts() == [(reply.request_id, "deadline") for reply in replies]
        for reply in replies:
            with pytest.raises(Unavailable) as caught:
                await rows_of(reply)
            assert caught.value.failure.code == "draining"
        assert await table.replies.wait_idle(0.0) == 0

    run(test)


def test_labels_match_exactly() -> None:
    async def test() -> None:
        table = Table()
        labels = ["a", "ab", "abc", "a", ""]
        replies = [table.submit(label=label) for label in labels]
        assert table.replies.cancel_labelled("a") == 2
        assert [reply.is_open for reply in replies] == [False, True, True, False, True]
        assert table.replies.cancel_labelled("nobody") == 0
        assert table.replies.cancel_labelled(None) == 3
        assert {cause for _, cause in table.aborts()} == {"api"}

    run(test)


def test_busy_since_moves_only_when_the_table_was_empty() -> None:
    async def test() -> None:
        table = Table()
        first = table.submit()
        table.clock.now_s = 200.0
        second = table.submit()
        assert table.replies.busy_since == 100.0
        first.cancel("api")
        second.cancel("api")
        table.submit()
        assert table.replies.busy_since == 200.0

    run(test)


def test_a_request_that_ends_in_the_queue_knows_how_long_its_prompt_is() -> None:
    async def run() -> None:
        table = Table()
        reply = table.submit()
        table.replies.note_prompt(Tokenized(request_id=reply.request_id, num_prompt_tokens=41))
        reply.cancel("api")
        assert (await anext(reply)).num_prompt_tokens == 41
        (stats,) = [envelope.message for envelope in table.metrics.clear()]
        assert isinstance(stats, RequestStats)
        assert stats.num_prompt_tokens == 41
        table.replies.note_prompt(Tokenized(request_id=reply.request_id, num_prompt_tokens=41))

    asyncio.run(run())


def test_a_row_says_more_than_the_tokenizer() -> None:
    async def run() -> None:
        table = Table()
        reply = table.submit()
        table.text(reply, "a")
        table.replies.note_prompt(Tokenized(request_id=reply.request_id, num_prompt_tokens=41))
        assert reply.last_row.num_prompt_tokens == 7

    asyncio.run(run())
