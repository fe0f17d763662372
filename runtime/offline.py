"""The part of the offline engine that lives on its event loop: actors, the table of replies, and the native door to them.

Owns what `runtime.serve` owns for the server, less sockets and signals. Invariant: if the engine is lost, every open request
fails with the reason, as it would behind HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import orjson

from runtime.actors.supervisor import Supervisor
from runtime.assembly import CACHE, HTTP, METRICS, SCHEDULER, SUPERVISOR, TOKENIZER, Assembly, Parts
from runtime.config import Config
from runtime.errors import CallboardError, ConfigError
from runtime.http.endpoints.server_info import server_facts
from runtime.http.native_format import NativeFormat
from runtime.http.schema.choices import Caller
from runtime.http.schema.decoding import decode
from runtime.http.schema.generate import GenerateRequest, NativeGenerations, generations_of
from runtime.http.service import Service
from runtime.loading.checkpoint import Checkpoint, open_checkpoint
from runtime.messages import EngineCommand, FlushCache
from runtime.startup import make_parts, server_info
from runtime.watchdog import watch

if TYPE_CHECKING:
    from runtime.parallel.led_ranks import LedRanks


class Offline:
    """Made by `start`, on the loop that it is used on."""

    def __init__(self, assembly: Assembly, service: Service, ranks: LedRanks | None, held: AsyncExitStack) -> None:
        """`held`: what is closed when the engine has stopped."""
        self._assembly = assembly
        self._service = service
        self._ranks = ranks
        self._held = held
        self._guard = asyncio.create_task(self._fail_when_lost())

    @classmethod
    async def start(cls, config: Config) -> Offline:
        """Load the model and start the actors. Raises `CallboardError`."""
        checkpoint = open_checkpoint(config.model)
        async with AsyncExitStack() as stack:
            ranks, parts = await _load(config, checkpoint, stack)
            assembly, service = _assemble(parts, checkpoint)
            await assembly.supervisor.start()
            return cls(assembly, service, ranks, stack.pop_all())

    async def whole(self, body: dict[str, Any]) -> Any:
        """The answer of `/generate`. Raises `RequestError`."""
        request = self._read(body)
        with self._service.open(request.generations) as bundle:
            return self._format(request).whole(await bundle.whole())

    async def events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a `/generate` stream as they come. Raises `RequestError`; requests left open at its end are aborted."""
        request = self._read(body)
        events = self._format(request)
        with self._service.open(request.generations, is_streaming=True) as bundle:
            while not bundle.is_read:
                for index, row in await bundle.rows():
                    yield events.event(index, row)

    async def command(self, command: EngineCommand) -> Any:
        """The scheduler's `Done` or `Refused`."""
        return await self._service.ask(self._service.scheduler, command)

    async def flush_cache(self) -> bool:
        """Whether nothing is cached any more."""
        flushed = await self._service.ask(self._service.cache, FlushCache())
        return bool(flushed.num_leases == 0)

    async def facts(self) -> dict[str, Any]:
        """What `/get_server_info` says."""
        return await server_facts(self._service)

    async def stop(self) -> None:
        """Fail what is open and end the actors and the executor."""
        self._assembly.replies.refuse()
        await self._assembly.replies.wait_idle(0)
        self._guard.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._guard
        await self._assembly.stop()
        await self._held.aclose()

    def _read(self, body: dict[str, Any]) -> NativeGenerations:
        service = self._service
        label = service.new_request_id()
        caller = Caller(info=service.info, label=label, draw_seed=lambda: service.seeds.getrandbits(63))
        return generations_of(decode(orjson.dumps(body), GenerateRequest), caller)

    def _format(self, request: NativeGenerations) -> NativeFormat:
        return NativeFormat(request, self._service.clock)

    async def _fail_when_lost(self) -> None:
        assembly = self._assembly
        timeout_s = assembly.parts.config.scheduler.watchdog_timeout
        try:
            async with asyncio.TaskGroup() as ends:
                ends.create_task(assembly.supervisor.wait())
                ends.create_task(watch(assembly.ref(SUPERVISOR, SCHEDULER), assembly.parts.clock, timeout_s))
                if self._ranks is not None:
                    ends.create_task(self._ranks.watch())
        except* CallboardError as lost:
            assembly.replies.refuse()
            assembly.replies.lose_all(str(lost.exceptions[0]))


async def _load(config: Config, checkpoint: Checkpoint, stack: AsyncExitStack) -> tuple[LedRanks | None, Parts]:
    """The model, and the ranks that share it, if there are some; they end when `stack` is closed."""
    if config.parallel.tp_size == 1:
        return None, make_parts(config, checkpoint)
    from runtime.parallel.leading import leading  # what is about ranks is only imported where there are some
    from runtime.parallel.place import place_of

    place = place_of(config.parallel, {})
    if not place.leads:
        raise ConfigError("an engine is on machine 0; on the others `python -m runtime.serve --node-rank N` runs")
    ranks = await stack.enter_async_context(leading(config, place))
    return ranks, await ranks.load(partial(make_parts, config, checkpoint))


def _assemble(parts: Parts, checkpoint: Checkpoint) -> tuple[Assembly, Service]:
    assembly = Assembly(parts, Supervisor(parts.clock))
    service = Service(
        replies=assembly.replies,
        config=parts.config,
        info=server_info(parts, checkpoint),
        clock=parts.clock,
        seeds=Random(parts.config.scheduler.random_seed),
        scheduler=assembly.ref(HTTP, SCHEDULER),
        cache=assembly.ref(HTTP, CACHE),
        metrics=assembly.ref(HTTP, METRICS),
        tokenizer=assembly.ref(HTTP, TOKENIZER),
    )
    return assembly, service
