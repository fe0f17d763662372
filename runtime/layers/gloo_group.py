"""A `RankGroup` over torch.distributed's gloo, which moves bytes between CPUs by TCP.

Owns the connections to the other ranks and to the store in which they find each other, which rank 0 serves. The group is not
torch's default one, nothing about it comes from the environment, and several can live in one process.
"""

from __future__ import annotations

import math
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import GatherOptions, ProcessGroupGloo, Store, TCPStore, Work  # type: ignore[attr-defined]

from runtime.errors import CallboardError, RankLost, StartError

START_TIMEOUT_S = 1800.0
"""How long a rank waits for the others to come up, and to load their weights."""
COLLECTIVE_TIMEOUT_S = 60.0
"""How long a rank waits for the others to enter a collective. One that has died is noticed at once."""
ABORT_INTERVAL = timedelta(seconds=0.2)
"""How often one who waits in a collective looks whether the group is aborted."""
STORE_INTERVAL_S = 0.05
BROKEN_OFF = "it was broken off"

_SOURCE = re.compile(r"^\[\S+\.cc:\d+\] ")


class GlooGroup:
    """Implements `RankGroup`; `connect` makes one."""

    def __init__(self, rank: int, size: int, store: Store, processes: Any, start_timeout_s: float) -> None:
        """processes: a `ProcessGroupGloo`, whose type stub lacks its collectives."""
        self.rank = rank
        self.size = size
        self._store = store
        self._processes = processes
        self._start_timeout_s = start_timeout_s
        self.num_local = 1
        self._rounds = count()
        self._aborted = threading.Event()

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        *,
        rank: int,
        size: int,
        listener: socket.socket | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        timeout_s: float = COLLECTIVE_TIMEOUT_S,
    ) -> GlooGroup:
        """Meet the other ranks at `host`:`port`, where rank 0 listens; it returns when all are there.

        listener: rank 0's, already bound to the port, so that nobody else can take it; it belongs to the group from now on.
        timeout_s: of each collective. Raises `StartError` if not all ranks come, or the port is taken.
        """
        with _raising(StartError, f"the {size} ranks can not meet at {host}:{port}"):
            store = TCPStore(
                host,
                port,
                size,
                rank == 0,
                timedelta(seconds=start_timeout_s),
                wait_for_workers=True,
                master_listen_fd=None if listener is None else listener.detach(),
            )
            processes = ProcessGroupGloo(store, rank, size, _options(_address_towards(host, port), timeout_s))
            group = cls(rank, size, store, processes, start_timeout_s)
            group.num_local = group._say(_machine()).count(_machine())
            return group

    def all_reduce_sum(self, x: Tensor) -> None:
        """See `RankGroup.all_reduce_sum`. Gathers and adds: gloo's own order of addition depends on a number's place in `x`."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        with _raising(RankLost, "the ranks could not add up their parts"):
            self._finish(self._processes.allgather([parts], [x]))
        total = parts[0].float()
        for part in parts[1:]:
            total += part
        x.copy_(total)

    def gather_columns(self, part: Tensor, widths: Sequence[int]) -> Tensor:
        """See `RankGroup.gather_columns`. gloo wants parts of one size, so narrow ones are padded."""
        num_rows, width = part.shape[0], max(widths)
        padded = torch.nn.functional.pad(part, (0, width - part.shape[1])).contiguous()
        parts = [padded.new_empty(num_rows, width) for _ in widths] if self.rank == 0 else []
        with _raising(RankLost, "the ranks could not gather their logits"):
            self._finish(self._processes.gather([parts] if parts else [], [padded], GatherOptions()))
        if not parts:
            return part
        return torch.cat([received[:, :own] for received, own in zip(parts, widths, strict=True)], dim=1)

    def broadcast(self, x: Tensor) -> None:
        """See `RankGroup.broadcast`."""
        with _raising(RankLost, "rank 0 could not hand out its hidden states"):
            self._finish(self._processes.broadcast([x]))

    def least(self, value: int) -> int:
        """See `RankGroup.least`. Goes through the store, since a collective does not wait for so long."""
        with _raising(RankLost, "the ranks could not compare their sizes"):
            return min(map(int, self._say(str(value))))

    def abort(self) -> None:
        """See `RankGroup.abort`. gloo's own does nothing."""
        self._aborted.set()

    def _say(self, text: str) -> list[str]:
        """What all ranks say, in their order. Raises RuntimeError."""
        number = next(self._rounds)
        said, heard = ([f"{kind}/{number}/{rank}" for rank in range(self.size)] for kind in ("said", "heard"))
        self._store.set(said[self.rank], text)
        self._wait_for(said)
        texts = [self._store.get(key).decode() for key in said]
        self._store.set(heard[self.rank], "")
        if self.rank == 0:  # it serves the store: if it ends the process over what it has heard, others must know it too
            self._wait_for(heard)
        return texts

    def _wait_for(self, keys: list[str]) -> None:
        """Until the ranks have set `keys`. Raises RuntimeError when that takes too long, or the group is aborted."""
        for _ in range(math.ceil(self._start_timeout_s / STORE_INTERVAL_S)):
            if self._store.check(keys):  # its own way of waiting logs every interval and can not be broken off
                return
            if self._aborted.wait(STORE_INTERVAL_S):
                raise RuntimeError(BROKEN_OFF)
        raise RuntimeError(f"not all have come as far within {self._start_timeout_s:g} s")

    def _finish(self, work: Work) -> None:
        """Wait for a collective. Raises what it has failed of, or RuntimeError when the group is aborted."""
        while not work.is_completed():
            try:
                work.wait(ABORT_INTERVAL)
            except RuntimeError:  # most often not the collective's: the wait is over
                if self._aborted.is_set() and not work.is_completed():
                    raise RuntimeError(BROKEN_OFF) from None
        work.wait()


@contextmanager
def _raising(error_type: type[CallboardError], what: str) -> Iterator[None]:
    """Everything that torch.distributed raises is one error, of whose text the place in torch's sources is left out."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise error_type(f"{what}: {_SOURCE.sub('', reason).partition('. ')[0]:.300}") from error


def _machine() -> str:
    """The same for all processes of a machine that runs, also for those in containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return socket.gethostname()


def _options(address: str, timeout_s: float) -> Any:
    """`address`: this machine's, at which the others can reach it. By default gloo takes what the host's name resolves to."""
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [ProcessGroupGloo.create_device(hostname=address)]
    options._timeout = timedelta(seconds=timeout_s)
    options._threads = 1  # one collective at a time
    return options


def _address_towards(host: str, port: int) -> str:
    """This machine's address on the way to `host`: where a datagram would leave, though none is sent."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
