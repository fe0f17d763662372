"""A program as `perf.jobs` runs them, that does what its first argument says and writes a figure before it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


def main() -> None:
    deed, *_, output_file = sys.argv[1:]
    Path(output_file).write_text('{"figure": 1}\n')
    sys.stdout.write(f"now: {deed}\n")
    sys.stdout.flush()
    if deed == "fail":
        raise SystemExit("no luck")
    if deed == "crash":
        os.abort()
    if deed in ("hang", "leave", "detach"):
        where = subprocess.DEVNULL if deed == "detach" else None
        child = subprocess.Popen(SLEEP, stdout=where, stderr=where)
        sys.stdout.write(f"{child.pid}\n")
        sys.stdout.flush()
    if deed == "hang":
        time.sleep(600)


if __name__ == "__main__":
    main()
