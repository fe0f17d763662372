"""One client in a process of its own, so that its memory and CPU time are its own: `python -m perf.language_client NAME < JOB`.

Prints its outcome as JSON.
"""

from __future__ import annotations

import resource
import sys
import time

import msgspec

from perf.language_clients import Job
from runtime import extensions

CLIENTS = "perf.language_clients"


class Outcome(msgspec.Struct, frozen=True):
    """`cpu_s` and `peak_mb` are the client's, with all that it imports."""

    seconds: float
    cpu_s: float
    peak_mb: float


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    seconds = extensions.load(CLIENTS, sys.argv[1]).measure(job)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KB
    sys.stdout.buffer.write(msgspec.json.encode(Outcome(seconds, time.process_time(), peak_mb)))


if __name__ == "__main__":
    main()
