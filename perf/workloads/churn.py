"""Clients that lose patience: a share of them goes away in the middle of the answer, and the others must not notice."""

from __future__ import annotations

import argparse

import numpy as np

from perf.call import Call, Session, random_ids, singles


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--churn-share", type=float, default=0.5, help="share of the clients that leave")
    parser.add_argument("--churn-input-len", type=int, default=100)
    parser.add_argument("--churn-output-len", type=int, default=64)


def sessions(options: argparse.Namespace, num_sessions: int, seed: int) -> list[Session]:
    rng = np.random.default_rng(seed)
    prompts = random_ids(rng, num_sessions, options.churn_input_len, options.vocab_size)
    leaves = rng.random(num_sessions) < options.churn_share
    moments = rng.integers(1, options.churn_output_len, num_sessions)
    return singles(
        Call(prompt, options.churn_output_len, leaves_after=int(moment) if does_leave else None)
        for prompt, does_leave, moment in zip(prompts, leaves, moments, strict=True)
    )
