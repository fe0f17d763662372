"""What the sequences ask of the sampler, as tensors with one entry per slot, so that a step sends nothing of it.

Owns no policy: whoever opens a slot sets its entries, on a copy on the CPU from which the device's is filled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_SCALARS = {
    "seeds": torch.int64,
    "top_ps": torch.float64,
    "temperatures": torch.float32,
    "top_ks": torch.int32,
    "min_ps": torch.float32,
    "repetition_penalties": torch.float32,
    "frequency_penalties": torch.float32,
    "presence_penalties": torch.float32,
    "num_prompt_tokens": torch.int32,
    "min_lengths": torch.int32,
    "num_masked": torch.int32,
    "num_biases": torch.int32,
}
"""Fields of one number per slot, the wide ones first so that all are aligned."""


class Needs(NamedTuple):
    """Which steps the rows of a batch need; the host knows. One that no row needs may be on: it costs time, nothing else."""

    draws: bool = True
    """Some temperature is not 0."""
    filters: bool = True
    """Some row with a temperature has top-k, top-p or min-p."""
    edits: bool = True
    """Some row has a penalty, a bias or masked ids."""


ALL_STEPS = Needs()


@dataclass(frozen=True, slots=True)
class SlotRules:
    """One entry per slot, all on one device. The scalars share one buffer, so that one copy moves all of them."""

    scalars: Tensor  # [bytes] uint8, the memory of the fields up to num_biases
    seeds: Tensor  # [slots] int64
    top_ps: Tensor  # [slots] float64; 1 and more is off
    temperatures: Tensor  # [slots] float32; 0 is greedy, whatever the filters say
    top_ks: Tensor  # [slots] int32; 0, less, or the vocabulary and more is off
    min_ps: Tensor  # [slots] float32; 0 is off
    repetition_penalties: Tensor  # [slots] float32; 1 is off
    frequency_penalties: Tensor  # [slots] float32; 0 is off
    presence_penalties: Tensor  # [slots] float32; 0 is off
    num_prompt_tokens: Tensor  # [slots] int32, tokens of the history before the output
    min_lengths: Tensor  # [slots] int32; the masked ids can not be chosen for a position below this
    num_masked: Tensor  # [slots] int32
    num_biases: Tensor  # [slots] int32
    masked_ids: Tensor  # [slots, max_masked] int32, of which the first num_masked count
    bias_ids: Tensor  # [slots, max_biases] int32, of which the first num_biases count; no id twice
    bias_values: Tensor  # [slots, max_biases] float32

    @classmethod
    def allocate(
        cls, num_slots: int, device: torch.device | str, *, max_masked: int = 512, max_biases: int = 1024
    ) -> SlotRules:
        """The rules of a plain greedy row for every slot."""
        num_bytes = num_slots * sum(dtype.itemsize for dtype in _SCALARS.values())
        scalars = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        fields, end = {}, 0
        for name, dtype in _SCALARS.items():
            start, end = end, end + num_slots * dtype.itemsize
            fields[name] = scalars[start:end].view(dtype)
        fields["top_ps"].fill_(1.0)
        fields["repetition_penalties"].fill_(1.0)
        shapes = {"masked_ids": max_masked, "bias_ids": max_biases, "bias_values": max_biases}
        for name, width in shapes.items():
            dtype = torch.float32 if name == "bias_values" else torch.int32
            fields[name] = torch.zeros((num_slots, width), dtype=dtype, device=device)
        return cls(scalars=scalars, **fields)

    def set(
        self,
        slot: int,
        *,
        seed: int = 0,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        num_prompt_tokens: int = 0,
        min_length: int = 0,
        masked_ids: Sequence[int] = (),
        biases: Mapping[int, float] | None = None,
    ) -> None:
        """The rules of one slot, on the CPU. Ids are smaller than the vocabulary, and no more than there is width for."""
        biases = biases or {}
        scalars = (
            (self.seeds, seed),
            (self.temperatures, temperature),
            (self.top_ks, top_k),
            (self.top_ps, top_p),
            (self.min_ps, min_p),
            (self.repetition_penalties, repetition_penalty),
            (self.frequency_penalties, frequency_penalty),
            (self.presence_penalties, presence_penalty),
            (self.num_prompt_tokens, num_prompt_tokens),
            (self.min_lengths, min_length),
            (self.num_masked, len(masked_ids)),
            (self.num_biases, len(biases)),
        )
        for field, value in scalars:
            field.numpy()[slot] = value  # a tenth of the time that a tensor's own assignment takes
        lists = ((self.masked_ids, masked_ids), (self.bias_ids, list(biases)), (self.bias_values, list(biases.values())))
        for field, values in lists:
            if values:
                field.numpy()[slot, : len(values)] = values
