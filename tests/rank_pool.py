"""Ranks as processes, which are started once for all tests and meet anew for each."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

import torch

from kernels import native
from runtime.layers.gloo_group import GlooGroup

MAX_RANKS = 3
TIMEOUT_S = 240.0

T = TypeVar("T")


class RankPool:
    """Runs a function of a module on several ranks at the same time."""

    def __init__(self) -> None:
        self._processes = [_start() for _ in range(MAX_RANKS)]

    def run(self, num_ranks: int, function: Callable[..., T], *args: object) -> list[T]:
        """What `function(group, *args)` returns on each rank; raises what one of them has raised."""
        # Who hangs up before the others have all they wait for breaks it off, so all end together.
        return [future.result(TIMEOUT_S) for future in self.submit(num_ranks, _and_wait, function, *args)]

    def submit(
        self, num_ranks: int, function: Callable[..., T], *args: object, timeout_s: float = TIMEOUT_S
    ) -> list[Future[T]]:
        """As `run`, for ranks that fail. One that has died is due to be revived. timeout_s: of each collective."""
        meeting = (num_ranks, free_port(), timeout_s)
        processes = enumerate(self._processes[:num_ranks])
        return [process.submit(_be_rank, rank, *meeting, function, args) for rank, process in processes]

    def revive(self, rank: int) -> None:
        """Start a new process in the place of one that died."""
        self._processes[rank].shutdown()
        self._processes[rank] = _start()

    def stop(self) -> None:
        for process in self._processes:
            process.shutdown()


def _start() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _be_rank(rank: int, size: int, port: int, timeout_s: float, function: Callable[..., T], args: tuple[object, ...]) -> T:
    torch.set_num_threads(1)
    native.set_num_threads(1)
    group = GlooGroup.connect("127.0.0.1", port, rank=rank, size=size, start_timeout_s=TIMEOUT_S, timeout_s=timeout_s)
    return function(group, *args)


def _and_wait(group: GlooGroup, function: Callable[..., T], *args: object) -> T:
    result = function(group, *args)
    group.least(0)
    return result


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
