"""A compiler's process that does what the grammar says: crash, hang, lie or end; otherwise it refuses."""

from __future__ import annotations

import os
import signal
import sys
import time

import msgspec

from runtime.errors import InvalidRequest
from runtime.sampling.grammar_frames import LENGTH, OUT_OF_MEMORY, Compile, Refused, ToChild, packed


def obey(order: str) -> None:
    match order.split()[0]:
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory":
            os._exit(OUT_OF_MEMORY)
        case "cpu":
            os.kill(os.getpid(), signal.SIGPROF)
        case "slow":
            time.sleep(0.5)
        case "hang":
            time.sleep(600)
        case "lie":
            sys.stdout.buffer.write(LENGTH.pack(4) + b"\xc1\xc1\xc1\xc1")
            sys.stdout.buffer.flush()


def main() -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while len(length := sys.stdin.buffer.read(LENGTH.size)) == LENGTH.size:
        frame = msgspec.msgpack.decode(sys.stdin.buffer.read(LENGTH.unpack(length)[0]), type=ToChild)
        if isinstance(frame, Compile):
            obey(frame.grammar.source)
            sys.stdout.buffer.write(packed(Refused(InvalidRequest(f"refused by {os.getpid()}").failure)))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
