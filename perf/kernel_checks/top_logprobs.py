"""Log probabilities of given and of the likeliest tokens; logits are float32 whatever the model computes in."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels.top_logprobs import reference, top_logprobs
from kernels.top_logprobs.cases import CASES
from perf.kernel_checks import Draw, Pair

DEVICES = ("cpu", "cuda")


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in CASES:
        logits = draw.normal(case.num_rows, case.vocab_size, dtype=torch.float32)
        token_ids = draw.below(case.vocab_size, case.num_rows, case.num_ids)
        num_top = min(case.num_top, case.vocab_size)
        actual, expected = top_logprobs(logits, token_ids, num_top), reference.top_logprobs(logits, token_ids, num_top)
        for name, given, wanted in zip(actual._fields, actual, expected, strict=True):
            yield Pair(f"{case} {name}", given, wanted)
