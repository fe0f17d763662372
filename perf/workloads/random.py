"""Prompts of equal length that share nothing: SGLang's `random` with a range ratio of 1."""

from __future__ import annotations

import argparse

import numpy as np

from perf.call import Call, Session, random_ids, singles


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--random-input-len", type=int, default=100, help="tokens of each prompt")
    parser.add_argument("--random-output-len", type=int, default=64, help="tokens of each answer")


def sessions(options: argparse.Namespace, num_sessions: int, seed: int) -> list[Session]:
    return fresh(
        num_sessions,
        prompt_tokens=options.random_input_len,
        output_tokens=options.random_output_len,
        vocab_size=options.vocab_size,
        seed=seed,
    )


def fresh(num_sessions: int, *, prompt_tokens: int, output_tokens: int, vocab_size: int, seed: int) -> list[Session]:
    rng = np.random.default_rng(seed)
    return singles(Call(ids, output_tokens) for ids in random_ids(rng, num_sessions, prompt_tokens, vocab_size))
