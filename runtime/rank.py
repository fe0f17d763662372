"""`python -m runtime.rank`: a rank that does not lead, as a process of its machine starts it and says over standard input.

It ends with rank 0: told over the link, or because the link or the parent process is lost. The signals of a terminal or a
service reach it too, while rank 0 still lets requests finish, so it does not follow them.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys

import msgspec
import uvloop

from runtime.errors import CallboardError
from runtime.parallel.leaving import leave_at_once
from runtime.parallel.setup import RankSetup

log = logging.getLogger("callboard")

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Be the rank that the parent process says, until rank 0 ends it."""
    _die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    setup = _read_setup()
    from runtime.parallel.rank_process import be_rank  # PyTorch takes seconds to import: not before the parent is known to live

    try:
        uvloop.run(be_rank(setup))
    except CallboardError as error:
        log.error("%s", error)
        leave_at_once(error.exit_code)
    leave_at_once(0)


def _die_with_parent() -> None:
    """Linux ends this process with the one that has started it, however that ends; elsewhere the loss of the link does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _read_setup() -> RankSetup:
    """Ends the process if nobody is there any more to be a rank for."""
    try:
        setup = msgspec.json.decode(sys.stdin.buffer.read(), type=RankSetup)
    except msgspec.MsgspecError:
        sys.exit("error: this process is for `python -m runtime.serve --tp-size` to start")
    if os.getppid() != setup.parent:  # it ended before this process was tied to it
        sys.exit("error: the process that has started this rank is gone")
    return setup


if __name__ == "__main__":
    main()
