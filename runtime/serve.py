"""`python -m runtime.serve`: loads a model, starts the actors, opens the port, and takes it all down again.

Ends with 0 after SIGTERM or SIGINT, otherwise with the exit code of the `CallboardError` that it prints in one line.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from random import Random
from typing import Any, NoReturn

import uvloop

from runtime import command_line
from runtime.actors.journal import Journal
from runtime.actors.supervisor import Supervisor
from runtime.assembly import CACHE, HTTP, METRICS, SCHEDULER, SUPERVISOR, TOKENIZER, Assembly, Parts
from runtime.config import Config
from runtime.errors import CallboardError, DeviceLost
from runtime.http.app import make_app
from runtime.http.batches import BATCHES
from runtime.http.connection import check_address, serve
from runtime.http.service import SERVICE
from runtime.loading.checkpoint import Checkpoint, open_checkpoint
from runtime.scheduling.policy import load_policy
from runtime.startup import batches, make_parts, output_parsing, server_info, with_seed
from runtime.text.parsing.formats import check as check_formats
from runtime.watchdog import watch

log = logging.getLogger("callboard")

Guard = Callable[[], Coroutine[Any, Any, None]]
Leave = Callable[[int], NoReturn]
Signals = asyncio.Queue[signal.Signals]

SWITCH_INTERVAL_S = 0.0005
"""Python lets a thread keep the GIL for 5 ms by default: the event loop would wait that long for the executor's worker."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server until it is told to stop."""
    leave: Leave = sys.exit
    try:
        config = with_seed(command_line.parse(sys.argv[1:] if arguments is None else arguments))
        _set_up_logging(config.metrics.log_level)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        if config.parallel.tp_size > 1:
            from runtime.parallel.leaving import leave_at_once as leave

            uvloop.run(_run_rank(config))
            leave(0)
        uvloop.run(_run(config))
    except CallboardError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the one line that a person sees
        if isinstance(error, DeviceLost):  # what PyTorch still does with the GPU at its end would fail, with another exit code
            from runtime.parallel.leaving import leave_at_once as leave
        leave(error.exit_code)
    except KeyboardInterrupt:
        leave(130)


async def _run(config: Config) -> None:
    checkpoint = _check(config)
    await serve_parts(make_parts(config, checkpoint), checkpoint)


async def _run_rank(config: Config) -> None:
    """As `_run`, with a model that several ranks share: the first one serves, the others compute what it tells them."""
    from runtime.parallel.place import place_of  # what is about ranks is only imported where there are some

    place = place_of(config.parallel, os.environ)
    if not place.leads:
        from runtime.parallel.rank_process import follow_from

        return await follow_from(place, config)
    from runtime.parallel.leading import leading

    checkpoint = _check(config)
    async with leading(config, place) as ranks:
        parts = await ranks.load(partial(make_parts, config, checkpoint))
        await serve_parts(parts, checkpoint, guard=ranks.watch)


def _check(config: Config) -> Checkpoint:
    """Find out what is wrong before the model is loaded, which takes longer."""
    check_address(config.http.host, config.http.port)
    load_policy(config.scheduler.schedule_policy, Random(0))
    check_formats(config.model.tool_call_parser, config.model.reasoning_parser)
    return open_checkpoint(config.model)


async def serve_parts(parts: Parts, checkpoint: Checkpoint, guard: Guard | None = None) -> None:
    """Serve with actors made of `parts` until told to stop. Raises what ended the engine.

    `guard` watches over what the executor depends on, and returns only by raising why the engine is lost.
    """
    journal = Journal(parts.clock)
    assembly = Assembly(parts, Supervisor(parts.clock, observe=journal))
    await assembly.supervisor.start()
    try:
        await _serve(assembly, checkpoint, journal, guard)
    finally:
        await assembly.stop()


async def _serve(assembly: Assembly, checkpoint: Checkpoint, journal: Journal, guard: Guard | None) -> None:
    """From the open port to the last answer."""
    config, clock = assembly.parts.config, assembly.parts.clock
    app = make_app(
        assembly.replies,
        config,
        server_info(assembly.parts, checkpoint),
        clock=clock,
        seeds=Random(config.scheduler.random_seed),
        scheduler=assembly.ref(HTTP, SCHEDULER),
        cache=assembly.ref(HTTP, CACHE),
        metrics=assembly.ref(HTTP, METRICS),
        tokenizer=assembly.ref(HTTP, TOKENIZER),
        output_parsing=output_parsing(assembly.parts),
    )
    app[BATCHES] = files = batches(assembly.parts, app[SERVICE])
    signals = _catch_signals()
    runner, port = await serve(app, config.http.host, config.http.port)
    await files.start()
    try:
        gc.collect()
        gc.freeze()  # the model and the modules live as long as the process: not worth a look at each collection
        log.info("listening on http://%s:%d", config.http.host, port)
        log.info("The server is fired up and ready to roll!")
        await _until_stopped(assembly, journal, signals, guard)
    finally:
        await runner.cleanup()
        await files.stop()


async def _until_stopped(assembly: Assembly, journal: Journal, signals: Signals, guard: Guard | None) -> None:
    """Wait for a signal and drain; or raise what ended the engine, after every open request got its error."""
    scheduler = assembly.ref(SUPERVISOR, SCHEDULER)
    timeout_s = assembly.parts.config.scheduler.watchdog_timeout
    ends = [
        asyncio.create_task(_drain_at_signal(assembly, signals)),
        asyncio.create_task(assembly.supervisor.wait()),
        asyncio.create_task(watch(scheduler, assembly.parts.clock, timeout_s)),
    ]
    if guard is not None:
        ends.append(asyncio.create_task(guard()))
    (first, *_), others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    error = first.exception()
    if error is not None:
        journal.dump(str(error))
        assembly.replies.refuse()
        assembly.replies.lose_all(str(error))
        raise error


def _catch_signals() -> Signals:
    """From now on SIGTERM and SIGINT end up in the queue, and do not end the process."""
    signals: Signals = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    return signals


async def _drain_at_signal(assembly: Assembly, signals: Signals) -> None:
    """Wait for a signal, then for the open requests. A second signal ends the waiting at once."""
    deadline_s = assembly.parts.config.http.drain_timeout
    received = await signals.get()
    log.info("%s: no new requests are taken; open ones get %g s", received.name, deadline_s)
    assembly.replies.refuse()
    drained = asyncio.create_task(assembly.replies.wait_idle(deadline_s))
    again = asyncio.create_task(signals.get())
    await asyncio.wait((drained, again), return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not drained.done():
        drained.cancel()
        drained = asyncio.create_task(assembly.replies.wait_idle(0))
    log.info("stopped; %d requests were cut", await drained)


def _set_up_logging(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="[%(asctime)s] %(message)s", datefmt="%Y-%m-%d %H:%M:%S", stream=sys.stderr)


if __name__ == "__main__":
    main()
