"""What endpoints need: the replies, the facts about the server and the actors that can be asked."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from aiohttp import web

from runtime.actors.actor import Ref
from runtime.clock import Clock
from runtime.config import Config
from runtime.errors import Unavailable
from runtime.http.bundle import Bundle
from runtime.http.failure import error_of
from runtime.http.generation import Generation
from runtime.http.info import ServerInfo
from runtime.http.plain_text import PLAIN_TEXT
from runtime.http.progress import Progress
from runtime.http.replies import Replies
from runtime.http.request_log import RequestLog
from runtime.http.response_store import ResponseStore
from runtime.http.schema.choices import Caller
from runtime.http.sessions import Sessions
from runtime.messages import Message, Refused
from runtime.output_plan import OutputParsing

ASK_DEADLINE_S = 5.0


@dataclass(kw_only=True)
class Service:
    """`seeds` gives requests without a seed one, and request ids a prefix that differs from run to run.

    `info` is replaced when the weights are, `request_log` when an operator says so.
    """

    replies: Replies
    config: Config
    info: ServerInfo
    clock: Clock
    seeds: Random
    scheduler: Ref
    cache: Ref
    metrics: Ref
    tokenizer: Ref
    output_parsing: OutputParsing = PLAIN_TEXT
    """The parsers of the served model."""
    progress: Progress = field(default_factory=Progress)
    response_store: ResponseStore = field(default_factory=ResponseStore)
    sessions: Sessions = field(default_factory=Sessions)
    request_log: RequestLog = field(init=False)
    new_request_id: Callable[[], str] = field(init=False)

    def __post_init__(self) -> None:
        prefix, numbers = f"{self.seeds.getrandbits(32):08x}", itertools.count(1)
        self.new_request_id = lambda: f"{prefix}-{next(numbers)}"
        self.request_log = RequestLog(is_on=self.config.metrics.log_requests)

    def caller(self, request: web.Request) -> Caller:
        return self.named_caller(request[REQUEST_ID])

    def named_caller(self, label: str) -> Caller:
        """Of a request that came by another way than HTTP."""
        return Caller(
            info=self.info,
            label=label,
            draw_seed=lambda: self.seeds.getrandbits(63),
            output_parsing=self.output_parsing,
        )

    def new_hex(self, num_bytes: int) -> str:
        """A random name, in hexadecimal digits."""
        return self.seeds.randbytes(num_bytes).hex()

    @contextlib.contextmanager
    def open(
        self, generations: Sequence[Generation], *, is_streaming: bool = False, joins_rows: bool = True
    ) -> Iterator[Bundle]:
        """Submit `generations`; whatever is still open when the block is left is aborted. Raises what `Bundle` raises."""
        interval = self.config.http.stream_interval if is_streaming else None
        with (
            Bundle(self.replies, generations, interval, joins_rows=joins_rows) as bundle,
            self.request_log.of(generations, bundle),
        ):
            yield bundle

    async def ask(self, actor: Ref, message: Message, deadline_s: float | None = None) -> Any:
        """The answer of an actor. Raises `Unavailable` if there is none in time."""
        try:
            return await actor.ask(message, ASK_DEADLINE_S if deadline_s is None else deadline_s)
        except (TimeoutError, ConnectionError):
            raise Unavailable(f"the {actor.receiver} does not answer", code="engine_restarting", retry_after=5) from None

    async def command(self, actor: Ref, message: Message, deadline_s: float | None = None) -> Any:
        """The value with which an actor answers a command. Raises its refusal, and what `ask` raises."""
        answer = await self.ask(actor, message, deadline_s)
        if isinstance(answer, Refused):
            raise error_of(answer.failure)
        return answer.value


SERVICE = web.AppKey("service", Service)
REQUEST_ID = web.RequestKey("request_id", str)
