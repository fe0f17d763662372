"""The group in which the ranks exchange tensors, made with what the flags say about it."""

from __future__ import annotations

import socket

from runtime.config import ParallelConfig
from runtime.layers.gloo_group import COLLECTIVE_TIMEOUT_S, GlooGroup
from runtime.layers.rank_group import RankGroup


def gather(config: ParallelConfig, listener: socket.socket) -> RankGroup:
    """Rank 0's part: meet the other ranks, which `join` at the address of `listener`. Blocks. Raises `StartError`."""
    host, port = listener.getsockname()[:2]
    return GlooGroup.connect(host, port, rank=0, size=config.tp_size, listener=listener, timeout_s=_timeout_s(config))


def join(config: ParallelConfig, host: str, port: int, rank: int) -> RankGroup:
    """Any other rank's part. Blocks. Raises `StartError` if not all ranks come."""
    return GlooGroup.connect(host, port, rank=rank, size=config.tp_size, timeout_s=_timeout_s(config))


def _timeout_s(config: ParallelConfig) -> float:
    return config.dist_timeout or COLLECTIVE_TIMEOUT_S
