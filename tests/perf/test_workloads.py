"""Every load gives as many sessions as asked for, the same for the same seed and others for another."""

from __future__ import annotations

import argparse
import os

import pytest

from perf.call import Session
from runtime import extensions

WORKLOADS = "perf.workloads"


def draw(name: str, num_sessions: int, seed: int, *arguments: str) -> list[Session]:
    workload = extensions.load(WORKLOADS, name)
    parser = argparse.ArgumentParser()
    workload.add_arguments(parser.add_argument_group(name))
    options = parser.parse_args(arguments)
    options.vocab_size = 49000
    sessions: list[Session] = workload.sessions(options, num_sessions, seed)
    return sessions


@pytest.mark.parametrize("name", extensions.names(WORKLOADS))
def test_a_load_is_drawn_from_its_seed(name: str) -> None:
    if name == "gsm8k" and "CALLBOARD_DATA" not in os.environ:
        pytest.skip("CALLBOARD_DATA does not name the folder of gsm8k.jsonl")
    sessions = draw(name, 7, 1)
    assert len(sessions) == 7
    assert sessions == draw(name, 7, 1)
    assert sessions != draw(name, 7, 2)
    assert all(call.num_output_tokens > 0 and call.prompt for session in sessions for call in session)


def test_groups_share_their_prefix_and_nothing_else() -> None:
    first, second, third = (session[0].prompt for session in draw("generated-shared-prefix", 3, 1, "--gsp-num-groups", "2"))
    assert first[:800] == third[:800] != second[:800]
    assert first[800:] != third[800:]


def test_a_walk_down_a_tree_repeats_itself_and_shares_its_root_with_its_neighbour() -> None:
    walk, neighbour = draw("fork-tree", 2, 1)
    assert [len(call.prompt) for call in walk] == [100, 200, 300]
    assert walk[2].prompt[:200] == walk[1].prompt == neighbour[1].prompt
    assert walk[2].prompt != neighbour[2].prompt


def test_turns_after_the_first_follow_it() -> None:
    (session,) = draw("multi-turn", 1, 1)
    assert [call.follows for call in session] == [False, True, True, True]


def test_some_clients_leave() -> None:
    moments = [session[0].leaves_after for session in draw("churn", 100, 1)]
    assert 20 < moments.count(None) < 80
