"""The group in which the ranks exchange tensors, made with what the flags say about it."""

from __future__ import annotations

from runtime.config import ParallelConfig
from runtime.layers.gloo_group import COLLECTIVE_TIMEOUT_S, GlooGroup
from runtime.layers.rank_group import RankGroup


def connect(config: ParallelConfig, host: str, port: int, rank: int) -> RankGroup:
    """Meet the other ranks at `host`:`port`, where rank 0 listens. Blocks. Raises `StartError` if they do not come."""
    timeout_s = config.dist_timeout or COLLECTIVE_TIMEOUT_S
    return GlooGroup.connect(host, port, rank=rank, size=config.tp_size, timeout_s=timeout_s)
