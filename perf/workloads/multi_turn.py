"""Conversations: each turn sends all that was said before, so an engine that keeps its cache computes only the new question."""

from __future__ import annotations

import argparse

import numpy as np

from perf.call import Call, Session
from perf.text import words


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--multi-turn-num-turns", type=int, default=4)
    parser.add_argument("--multi-turn-question-words", type=int, default=60)
    parser.add_argument("--multi-turn-output-len", type=int, default=64)


def sessions(options: argparse.Namespace, num_sessions: int, seed: int) -> list[Session]:
    rng = np.random.default_rng(seed)
    return [
        tuple(
            Call(words(rng, options.multi_turn_question_words) + "\n", options.multi_turn_output_len, follows=turn > 0)
            for turn in range(options.multi_turn_num_turns)
        )
        for _ in range(num_sessions)
    ]
