"""From a step's logits to its tokens: the argmax of every row, and the sampling steps for the rows that ask for more.

A special row passes through the edits, a custom processor and the mask of its grammar, in this order, before it is drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from runtime.messages import INVALID_TOKEN
from runtime.sampling.bitmask import forbid
from runtime.sampling.logit_processor import ProcessorCall
from runtime.sampling.matcher import Mask
from runtime.sampling.steps import EDITS, Edit, Ids, Row, SamplingRules, draw


@dataclass(frozen=True, slots=True)
class SpecialRow:
    """A row of logits that is not simply greedy."""

    index: int
    """Which row of the logits."""
    rules: SamplingRules
    history: npt.NDArray[np.int32]
    """[tokens] prompt and output so far; its length is the position of the token to choose."""
    processor: ProcessorCall | None = None
    mask: Mask | None = None
    """[ceil(vocab / 32)] tokens that the grammar allows."""
    keeps_logits: bool = False
    """The model's own logits are needed afterwards, so the steps work on a copy."""


def sample(logits: torch.Tensor, special_rows: Sequence[SpecialRow], edits: Sequence[Edit] = EDITS) -> Ids:
    """Token ids [rows] for `logits` [rows, vocab] float32 on the CPU; the logits of special rows are overwritten.

    Rows without an entry in `special_rows` are greedy: the first id with the largest logit. `INVALID_TOKEN` stands for a row
    that has a NaN or +inf, in which nothing is left to choose from, or whose processor raised; other rows do not notice.
    """
    scores: npt.NDArray[np.float32] = logits.numpy()  # [rows, vocab], the same memory
    token_ids: Ids = scores.argmax(axis=1)  # the first maximum; a NaN counts as the largest
    is_valid = np.isfinite(scores[np.arange(len(scores)), token_ids])
    token_ids[~is_valid] = INVALID_TOKEN
    for special in special_rows:
        if is_valid[special.index]:
            row = scores[special.index]
            token_ids[special.index] = _choose(row.copy() if special.keeps_logits else row, special, edits)
    return token_ids


def _choose(row: Row, special: SpecialRow, edits: Sequence[Edit]) -> int:
    for edit in edits:
        edit(row, special.rules, special.history)
    if special.processor is not None and not special.processor.apply(row, special.history):
        return INVALID_TOKEN
    if special.mask is not None:
        forbid(row, special.mask)
    best = int(row.argmax())
    if not np.isfinite(row[best]):
        return INVALID_TOKEN
    if special.rules.params.is_greedy:
        return best
    return draw(row, special.rules.params, len(special.history))
