"""The metrics actor: log lines as SGLang writes them, and a throughput that is 0 when nothing runs."""

from __future__ import annotations

import asyncio
import logging

import pytest

from runtime.actors.mailbox import Envelope
from runtime.messages import Message, Scrape
from runtime.metrics.actor import Metrics
from runtime.metrics.registry import Registry
from tests.metrics.conftest import Samples, ended, parse, step


class HandClock:
    """Stands still until a test moves it."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.now_s


class Stage:
    def __init__(self, *, decode_log_interval: int = 40) -> None:
        self.clock, self.registry = HandClock(), Registry("the-model")
        self.decode_log_interval = decode_log_interval
        self.start()

    def start(self) -> None:
        self.actor = Metrics(self.registry, self.clock, decode_log_interval=self.decode_log_interval)

    def receive(self, message: Message) -> object:
        async def handle() -> object:
            reply = asyncio.get_running_loop().create_future()
            await self.actor.handle(Envelope("test", message, reply))
            return await reply

        return asyncio.run(handle())

    def scrape(self) -> Samples:
        exposition = self.receive(Scrape())
        assert isinstance(exposition, bytes)
        return parse(exposition)

    def decode(self, num_steps: int, *, period_s: float = 0.5, num_tokens: int = 4) -> None:
        for _ in range(num_steps):
            self.clock.now_s += period_s
            self.receive(step(num_decode_tokens=num_tokens, num_running=num_tokens, num_used_tokens=40))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_throughput_is_live_and_zero_when_idle() -> None:
    stage = Stage()
    assert stage.scrape()["sglang:gen_throughput"] == 0
    stage.decode(30)
    assert stage.scrape()["sglang:gen_throughput"] == pytest.approx(8.0, rel=0.15)
    stage.receive(step(num_running=0))
    samples = stage.scrape()
    assert (samples["sglang:gen_throughput"], samples["sglang:num_running_reqs"]) == (0, 0)


def test_throughput_falls_when_steps_stop_coming() -> None:
    stage = Stage()
    stage.decode(30)
    stage.clock.now_s += 60
    assert stage.scrape()["sglang:gen_throughput"] == 0


def test_counters_outlive_the_actor() -> None:
    stage = Stage()
    stage.receive(ended())
    stage.start()
    stage.receive(ended())
    assert stage.scrape()["sglang:num_requests_total"] == 2


def test_every_prefill_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage()
    stage.receive(
        step(num_prefill_tokens=7, num_new_sequences=1, num_cached_tokens=3, num_used_tokens=25, num_running=2, num_queued=4)
    )
    assert lines(caplog) == [
        "Prefill batch. #new-seq: 1, #new-token: 7, #cached-token: 3, token usage: 0.25, #running-req: 2, #queue-req: 4"
    ]


def test_decode_has_a_line_per_interval(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage(decode_log_interval=3)
    stage.decode(7, period_s=0.25, num_tokens=1)
    assert (
        lines(caplog)
        == ["Decode batch. #running-req: 1, #token: 40, token usage: 0.40, gen throughput (token/s): 4.00, #queue-req: 0"] * 2
    )


def test_a_mixed_step_counts_as_both(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Stage(decode_log_interval=1).receive(step(num_prefill_tokens=5, num_decode_tokens=2))
    assert [line.split(".")[0] for line in lines(caplog)] == ["Prefill batch", "Decode batch"]


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_below_one_means_every_step(interval: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Stage(decode_log_interval=interval).decode(2)
    assert len(lines(caplog)) == 2


def test_an_empty_pool_has_usage_zero(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(decode_log_interval=1)
    stage.receive(step(num_prefill_tokens=1, num_decode_tokens=1, num_total_tokens=0))
    assert stage.scrape()["sglang:token_usage"] == 0
