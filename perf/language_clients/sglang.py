"""SGLang's frontend language, with the same program. IPython, which it imports and does not need here, is left out."""

from __future__ import annotations

import importlib
import sys
import time
import types
from typing import Any

from perf.language_clients import Job

PACKAGE = "sglang"


def measure(job: Job) -> float:
    for name in ("IPython", "IPython.display"):
        module = types.ModuleType(name)
        vars(module).update(HTML=None, display=None)
        sys.modules.setdefault(name, module)
    sgl: Any = importlib.import_module("sglang")

    @sgl.function
    def ask(s, question):  # type: ignore[no-untyped-def]
        s += job.prefix + question + sgl.gen("answer", max_tokens=job.num_tokens, ignore_eos=True)

    backend = sgl.RuntimeEndpoint(job.base_url)
    started = time.perf_counter()
    states = ask.run_batch([{"question": question} for question in job.questions], backend=backend, temperature=0)
    seconds = time.perf_counter() - started
    if errors := [state.error() for state in states if state.error()]:
        raise RuntimeError(f"{len(errors)} of {len(states)} failed, the first with: {errors[0]}")
    return seconds
