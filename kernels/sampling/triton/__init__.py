"""Sampling in Triton: launches the edits, the filters and the draw, as many of them as the batch needs.

A batch of greedy rows costs one pass over its logits. No launch depends on what a tensor holds, nothing waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.sampling.rules import Needs, SlotRules
from kernels.sampling.triton.draw import draw, draw_greedily
from kernels.sampling.triton.edits import edited
from kernels.sampling.triton.filters import floors

greedy = draw_greedily


def sample(
    logits: Tensor,
    slots: Tensor,
    positions: Tensor,
    rules: SlotRules,
    history: Tensor,
    needs: Needs,
    allowed: Tensor | None,
    allowed_rows: Tensor | None,
) -> Tensor:
    """See `kernels.sampling.sample`."""
    if logits.shape[0] == 0:
        return torch.empty(0, dtype=torch.int32, device=logits.device)
    if needs.edits or allowed is not None:
        logits = edited(logits, slots, positions, rules, history, needs.edits, allowed, allowed_rows)
    if not needs.draws:
        return draw_greedily(logits, slots)
    lowest = floors(logits, slots, rules) if needs.filters else None
    return draw(logits, slots, positions, rules, lowest)
