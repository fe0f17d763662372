"""Groups of questions behind the same long prefix, as a system prompt makes them."""

from __future__ import annotations

import argparse

import numpy as np

from perf.call import Call, Session, random_ids, singles


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--gsp-num-groups", type=int, default=1)
    parser.add_argument("--gsp-system-prompt-len", type=int, default=800)
    parser.add_argument("--gsp-question-len", type=int, default=40)
    parser.add_argument("--gsp-output-len", type=int, default=16)


def sessions(options: argparse.Namespace, num_sessions: int, seed: int) -> list[Session]:
    return shared_prefix(
        num_sessions,
        num_groups=options.gsp_num_groups,
        prefix_tokens=options.gsp_system_prompt_len,
        question_tokens=options.gsp_question_len,
        output_tokens=options.gsp_output_len,
        vocab_size=options.vocab_size,
        seed=seed,
    )


def shared_prefix(
    num_sessions: int,
    *,
    num_groups: int,
    prefix_tokens: int,
    question_tokens: int,
    output_tokens: int,
    vocab_size: int,
    seed: int,
) -> list[Session]:
    """The groups take turns."""
    rng = np.random.default_rng(seed)
    prefixes = random_ids(rng, num_groups, prefix_tokens, vocab_size)
    questions = random_ids(rng, num_sessions, question_tokens, vocab_size)
    return singles(
        Call([*prefixes[number % num_groups], *question], output_tokens) for number, question in enumerate(questions)
    )
