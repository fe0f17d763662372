"""Which rank a process is: by its flags, or by what torchrun says."""

from __future__ import annotations

import pytest

from runtime.command_line import parse
from runtime.errors import ConfigError
from runtime.parallel.place import Place, place_of

NODES = ["--dist-init-addr", "10.0.0.1:5000", "--rank-secret-file", "secret"]
LAUNCHED = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "29500",
}


def place(*flags: str, environment: dict[str, str] | None = None) -> Place:
    return place_of(parse(flags).parallel, environment or {})


def test_alone_on_a_machine_rank_0_starts_the_others_on_loopback() -> None:
    assert place("--tp", "4") == Place(rank=0, num_ranks=4, host="127.0.0.1", port=0, spawned=range(1, 4))


@pytest.mark.parametrize(("node", "rank", "spawned"), [(0, 0, range(1, 3)), (1, 3, range(4, 6))])
def test_each_machine_has_its_share_of_the_ranks(node: int, rank: int, spawned: range) -> None:
    found = place("--tp-size", "6", "--nnodes", "2", "--node-rank", str(node), *NODES)
    assert (found.rank, found.spawned, found.num_ranks) == (rank, spawned, 6)
    assert (found.host, found.port) == ("10.0.0.1", 5000)
    assert found.leads == (node == 0)


def test_an_address_for_one_machine() -> None:
    found = place("--tp", "2", "--nccl-init-addr", "[::1]:5000")
    assert (found.host, found.port) == ("::1", 5000)


def test_torchrun_starts_all_processes() -> None:
    found = place("--tp", "2", environment=LAUNCHED | {"RANK": "1"})
    assert (found.rank, found.num_ranks, list(found.spawned)) == (1, 2, [])
    assert found.host == "127.0.0.1"
    assert found.store == ("host", 29500)
    assert found.serves_store
    assert not place("--tp", "2", environment=LAUNCHED | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).serves_store


def test_torchrun_on_several_machines_needs_a_secret() -> None:
    environment = LAUNCHED | {"WORLD_SIZE": "4", "RANK": "3"}
    with pytest.raises(ConfigError, match="--rank-secret-file"):
        place("--tp", "4", environment=environment)
    assert place("--tp", "4", "--rank-secret-file", "s", environment=environment).host == "host"


@pytest.mark.parametrize(
    ("flags", "environment", "complaint"),
    [
        (["--tp", "4"], LAUNCHED, "torchrun has started 2 processes, and --tp-size is 4"),
        (["--tp", "2"], LAUNCHED | {"RANK": "first"}, "not numbers"),
        (["--tp", "2", "--nnodes", "2", *NODES], LAUNCHED, "--nnodes"),
    ],
)
def test_torchrun_and_flags_that_do_not_fit(flags: list[str], environment: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        place(*flags, environment=environment)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--tp", "0"], "--tp-size must be from 1"),
        (["--tp", "3", "--nnodes", "2", *NODES], "--nnodes 2 does not divide --tp-size 3"),
        (["--tp", "2", "--nnodes", "4", *NODES], "--nnodes must be from 1 to 2"),
        (["--tp", "2", "--nnodes", "2", "--node-rank", "2", *NODES], "--node-rank must be from 0 to 1"),
        (["--tp", "2", "--nnodes", "2"], "needs --dist-init-addr and --rank-secret-file"),
        (["--tp", "2", "--nnodes", "2", *NODES[:2]], "needs --dist-init-addr and --rank-secret-file"),
        (["--tp", "2", "--dist-init-addr", "localhost"], "--dist-init-addr must be HOST:PORT"),
        (["--tp", "2", "--dist-init-addr", "localhost:70000"], "--dist-init-addr must be HOST:PORT"),
        (["--tp", "2", "--dist-timeout", "1"], "--dist-timeout must be at least 10"),
    ],
)
def test_impossible_flags(flags: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse(flags)
