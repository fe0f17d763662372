"""Trees of prompts, as programs that try several continuations make them: a node repeats its parent's prompt and adds some."""

from __future__ import annotations

import argparse

import numpy as np

from perf.call import Call, Session, random_ids


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--fork-tree-branches", type=int, default=3)
    parser.add_argument("--fork-tree-depth", type=int, default=3)
    parser.add_argument("--fork-tree-node-len", type=int, default=100, help="prompt tokens that a node adds")
    parser.add_argument("--fork-tree-output-len", type=int, default=16)


def sessions(options: argparse.Namespace, num_sessions: int, seed: int) -> list[Session]:
    """A session is a walk from the root to one leaf; the walks of a tree follow each other."""
    rng = np.random.default_rng(seed)
    walks: list[Session] = []
    while len(walks) < num_sessions:
        walks += [_walk(path, options) for path in _paths(rng, options)]
    return walks[:num_sessions]


def _paths(rng: np.random.Generator, options: argparse.Namespace) -> list[list[list[int]]]:
    """For each leaf of a new tree, the token ids that each node on its way adds."""
    paths: list[list[list[int]]] = [[]]
    for _ in range(options.fork_tree_depth):
        paths = [
            [*path, node]
            for path in paths
            for node in random_ids(rng, options.fork_tree_branches, options.fork_tree_node_len, options.vocab_size)
        ]
    return paths


def _walk(path: list[list[int]], options: argparse.Namespace) -> Session:
    prompts = [[token_id for node in path[: depth + 1] for token_id in node] for depth in range(len(path))]
    return tuple(Call(prompt, options.fork_tree_output_len) for prompt in prompts)
