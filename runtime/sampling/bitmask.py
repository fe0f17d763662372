"""Applies the bitmask of a grammar to a row of logits. Pure."""

from __future__ import annotations

import numpy as np

from runtime.sampling.matcher import Mask
from runtime.sampling.steps import Row


def make_mask(vocab_size: int) -> Mask:
    """A mask that allows nothing yet: [ceil(vocab / 32)] int32."""
    return np.zeros(-(-vocab_size // 32), dtype=np.int32)


def forbid(row: Row, mask: Mask) -> None:
    """Set every logit of `row` [vocab] to -inf whose bit is not set. Bits beyond the row are ignored."""
    is_allowed = np.unpackbits(mask.astype("<i4", copy=False).view(np.uint8), bitorder="little")[: len(row)]
    row[is_allowed == 0] = -np.inf
