"""What a rank that does not lead has to know to begin."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import msgspec

from runtime.config import Config


class RankSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is, and where rank 0 listens for its link. To a process just started it goes as JSON."""

    config: Config
    rank: int
    num_ranks: int
    host: str
    port: int
    secret: bytes
    parent: int | None = None
    """Process that has started it."""


def rank_setups(setup: RankSetup, ranks: Iterable[int]) -> Iterator[RankSetup]:
    """The same for other ranks, which this process starts."""
    for rank in ranks:
        yield msgspec.structs.replace(setup, rank=rank, parent=os.getpid())
