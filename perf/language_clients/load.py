"""The load generator of serve_bench: all requests of `/v1/completions` at once, streamed, as it does for every engine."""

from __future__ import annotations

import asyncio
import time

from perf.call import Call, singles
from perf.language_clients import Job
from perf.load import Client, closed_loop

PACKAGE = "perf"


def measure(job: Job) -> float:
    return asyncio.run(_measure(job))


async def _measure(job: Job) -> float:
    sessions = singles(Call(job.prefix + question, job.num_tokens) for question in job.questions)
    async with Client(job.base_url) as client:
        started = time.perf_counter()
        samples = await closed_loop(client, sessions, len(sessions))
        seconds = time.perf_counter() - started
    if errors := [sample.error for sample in samples if sample.error]:
        raise RuntimeError(f"{len(errors)} of {len(samples)} failed, the first with: {errors[0]}")
    return seconds
