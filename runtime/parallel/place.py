"""Which rank this process is, which ranks it starts, and where they meet: from the flags, or from what torchrun says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.config import ParallelConfig, split_address
from runtime.errors import ConfigError

LOOPBACK = "127.0.0.1"
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun says to each process that it starts."""


@dataclass(frozen=True, slots=True)
class Place:
    """`host` and `port`: where rank 0 listens for the others; port 0 is a free one."""

    rank: int
    num_ranks: int
    host: str = LOOPBACK
    port: int = 0
    spawned: range = range(0)
    """The ranks that this process starts."""
    store: tuple[str, int] | None = None
    """torchrun's store, in which rank 0 leaves its address for the others."""
    serves_store: bool = False
    """Whether rank 0 has to open `store` itself, because the launcher has not."""
    attempt: str = "0"
    """torchrun may start all processes anew; what an earlier attempt left in the store is not for this one."""

    @property
    def leads(self) -> bool:
        return self.rank == 0


def place_of(parallel: ParallelConfig, environment: Mapping[str, str]) -> Place:
    """Where the process of these flags and environment variables stands. Raises `ConfigError`."""
    if all(name in environment for name in TORCHRUN):
        return _launched(parallel, environment)
    num_local = parallel.tp_size // parallel.nnodes
    first = parallel.node_rank * num_local
    host, port = (LOOPBACK, 0) if parallel.dist_init_addr is None else split_address(parallel.dist_init_addr)
    return Place(
        rank=first,
        num_ranks=parallel.tp_size,
        host=host,
        port=port,
        spawned=range(first + 1, first + num_local),
    )


def _launched(parallel: ParallelConfig, environment: Mapping[str, str]) -> Place:
    try:
        rank, size, num_local, port = (int(environment[name]) for name in TORCHRUN if name != "MASTER_ADDR")
    except ValueError as error:
        raise ConfigError(f"the environment variables of torchrun are not numbers: {error}") from None
    if size != parallel.tp_size:
        raise ConfigError(f"torchrun has started {size} processes, and --tp-size is {parallel.tp_size}: they must be equal")
    if parallel.nnodes > 1:
        raise ConfigError("--nnodes is for machines without torchrun: leave it out here")
    if num_local < size and parallel.rank_secret_file is None:
        raise ConfigError("ranks on several machines need --rank-secret-file")
    host = environment["MASTER_ADDR"]
    return Place(
        rank=rank,
        num_ranks=size,
        host=LOOPBACK if num_local == size else host,
        store=(host, port),
        serves_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        attempt=environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )
