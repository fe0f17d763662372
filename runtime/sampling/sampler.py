"""From a step's logits to its tokens: the argmax of every row, and the sampling steps for the rows that ask for more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from runtime.messages import INVALID_TOKEN
from runtime.sampling.steps import EDITS, Edit, Ids, Row, SamplingRules, draw


@dataclass(frozen=True, slots=True)
class SpecialRow:
    """A row of logits that is not simply greedy."""

    index: int
    """Which row of the logits."""
    rules: SamplingRules
    history: npt.NDArray[np.int32]
    """[tokens] prompt and output so far; its length is the position of the token to choose."""


def sample(logits: torch.Tensor, special_rows: Sequence[SpecialRow], edits: Sequence[Edit] = EDITS) -> Ids:
    """Token ids [rows] for `logits` [rows, vocab] float32 on the CPU; the logits of special rows are overwritten.

    Rows without an entry in `special_rows` are greedy: the first id with the largest logit. `INVALID_TOKEN` stands for a row
    that has a NaN or +inf, or in which nothing is left to choose from; other rows do not notice.
    """
    scores: npt.NDArray[np.float32] = logits.numpy()  # [rows, vocab], the same memory
    token_ids: Ids = scores.argmax(axis=1)  # the first maximum; a NaN counts as the largest
    is_valid = np.isfinite(scores[np.arange(len(scores)), token_ids])
    token_ids[~is_valid] = INVALID_TOKEN
    for special in special_rows:
        if is_valid[special.index]:
            token_ids[special.index] = _choose(scores[special.index], special, edits)
    return token_ids


def _choose(row: Row, special: SpecialRow, edits: Sequence[Edit]) -> int:
    for edit in edits:
        edit(row, special.rules, special.history)
    best = int(row.argmax())
    if not np.isfinite(row[best]):
        return INVALID_TOKEN
    if special.rules.params.is_greedy:
        return best
    return draw(row, special.rules.params, len(special.history))
