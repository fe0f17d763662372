from __future__ import annotations

from random import Random

import pytest

from runtime import extensions
from runtime.errors import ConfigError
from runtime.scheduling.policy import PACKAGE, Policy, load_policy
from runtime.scheduling.request import Request
from tests.scheduling.conftest import World, make_limits, make_request

NAMES = extensions.names(PACKAGE)


def ranked(policy: Policy, requests: list[Request]) -> list[int]:
    return [request.request_id for request in sorted(requests, key=lambda request: policy.rank(request, 0.0))]


def test_all_policies_are_there() -> None:
    assert set(NAMES) >= {"lpm", "fcfs", "dfs-weight", "random", "priority"}


def test_an_unknown_policy_is_told_which_there_are() -> None:
    with pytest.raises(ConfigError, match=r"lpm"):
        load_policy("sjf", Random(0))


@pytest.mark.parametrize("name", NAMES)
def test_the_victim_is_one_of_those_running_and_the_same_each_time(name: str) -> None:
    policy = load_policy(name, Random(0))
    running = [make_request(number, [1]) for number in range(4)]
    victim = policy.victim(running)
    assert victim in running
    assert policy.victim(list(reversed(running))) is victim


@pytest.mark.parametrize("name", NAMES)
def test_a_herd_in_a_small_pool_ends(name: str) -> None:
    world = World(make_limits(num_pages=6, page_size=2), policy=name, schedule_conservativeness=0.01)
    for number in range(12):
        world.admit(number, [1, 2, number], max_new_tokens=6, priority=number % 3)
    world.drain()
    world.assert_idle()
    assert {finish.length for finish in world.outputs.finishes.values()} == {6}


@pytest.mark.parametrize("name", ["fcfs", "lpm", "dfs-weight", "random"])
def test_the_victim_loses_the_least_and_came_last(name: str) -> None:
    policy = load_policy(name, Random(0))
    running = [make_request(number, [1]) for number in range(4)]
    running[3].output_ids.append(5)
    assert policy.victim(running) is running[2]


def test_fcfs_goes_by_arrival() -> None:
    requests = [make_request(number, [1]) for number in (2, 0, 1)]
    assert ranked(load_policy("fcfs", Random(0)), requests) == [0, 1, 2]


def test_lpm_goes_by_what_is_cached_then_by_arrival() -> None:
    requests = [make_request(number, [1]) for number in range(4)]
    requests[2].num_hit_tokens = 16
    requests[3].num_hit_tokens = 4
    assert ranked(load_policy("lpm", Random(0)), requests) == [2, 3, 0, 1]


def test_dfs_weight_follows_the_tree() -> None:
    requests = [make_request(number, [1]) for number in range(3)]
    for request, order in zip(requests, (5, 1, 1), strict=True):
        request.tree_order = order
    assert ranked(load_policy("dfs-weight", Random(0)), requests) == [1, 2, 0]


def test_random_is_a_matter_of_its_seed() -> None:
    requests = [make_request(number, [1]) for number in range(20)]
    orders = [ranked(load_policy("random", Random(seed)), requests) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_priority_goes_by_the_number_and_spares_the_highest() -> None:
    policy = load_policy("priority", Random(0))
    requests = [make_request(number, [1], priority=priority) for number, priority in enumerate((0, 5, 5, -1))]
    assert ranked(policy, requests) == [1, 2, 0, 3]
    requests[3].output_ids += [1, 2, 3]
    assert policy.victim(requests) is requests[3]
    assert policy.victim(requests[1:3]) is requests[2]
