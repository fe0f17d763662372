"""Our language, with what a newcomer writes: `run_batch` without further options."""

from __future__ import annotations

import time

import frontend as sgl
from perf.language_clients import Job

PACKAGE = "frontend"


def measure(job: Job) -> float:
    @sgl.function
    def ask(s, question):  # type: ignore[no-untyped-def]
        s += job.prefix + question + sgl.gen("answer", max_tokens=job.num_tokens, ignore_eos=True)

    backend = sgl.RuntimeEndpoint(job.base_url)
    started = time.perf_counter()
    states = ask.run_batch([{"question": question} for question in job.questions], backend=backend, temperature=0)
    seconds = time.perf_counter() - started
    if errors := [state.error() for state in states if state.error()]:
        raise RuntimeError(f"{len(errors)} of {len(states)} failed, the first with: {errors[0]}")
    backend.shutdown()
    return seconds
