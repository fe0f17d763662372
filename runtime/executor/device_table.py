"""The device's half of the batch table: token ids, page tables and sampling rules of every slot, as tensors that never move.

A step's inputs are gathered here from the few numbers of its rows, and its sampled tokens are scattered back, so that the next
step finds them without the host. One slot more than there are, the scratch slot, serves rows that only fill up a graph: its
pages are the scratch page, which no sequence has.
Invariant: operations on it are in the order of the stream, and none waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.sampling import SlotRules
from runtime.executor.packet import Packet
from runtime.executor.port import ExecutorLimits
from runtime.executor.table_changes import TableChanges
from runtime.layers.forward import ForwardBatch, Queries


@dataclass(frozen=True, slots=True)
class RowWords:
    """The rows of a step on the device, int64."""

    slots: Tensor  # [rows]
    starts: Tensor  # [rows]
    counts: Tensor  # [rows] tokens of each row


@dataclass(frozen=True, slots=True)
class PackedChanges:
    """Where the changes of a step lie in its packet."""

    tokens: slice
    pages: slice
    rules: slice | None
    list_slots: slice
    lists: tuple[slice, ...]
    """Masked ids, bias ids and bias values of `list_slots`."""


class DeviceTable:
    """`scratch_page` is a page of the cache that no sequence has."""

    def __init__(self, limits: ExecutorLimits, device: torch.device, *, scratch_page: int) -> None:
        num_slots, max_pages = limits.num_slots + 1, -(-limits.context_length // limits.page_size)
        self.device = device
        self.page_size = limits.page_size
        self.scratch_slot = limits.num_slots
        self.token_ids = torch.zeros((num_slots, limits.context_length + 1), dtype=torch.int32, device=device)
        self.pages = torch.zeros((num_slots, max_pages), dtype=torch.int32, device=device)
        self.pages[self.scratch_slot] = scratch_page
        self.rules = SlotRules.allocate(num_slots, device)

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.token_ids, self.pages, self.rules.scalars, *_lists(self.rules)))

    # -- changes ---------------------------------------------------------------------------------------------------------

    def pack(self, changes: TableChanges, rules: SlotRules, packet: Packet) -> PackedChanges:
        """Put the changes into a packet. `rules`: those of all slots, on the host."""
        slots = changes.list_slots
        return PackedChanges(
            tokens=packet.add(changes.tokens()),
            pages=packet.add(changes.pages()),
            rules=packet.add_bytes(rules.scalars.numpy()) if changes.has_rules else None,
            list_slots=packet.add(slots),
            lists=tuple(packet.add_bytes(field.numpy()[slots]) for field in _lists(rules)) if slots else (),
        )

    def apply(self, changes: PackedChanges, words: Tensor) -> None:
        """Do it. words: the packet on the device."""
        for target, part in ((self.token_ids, changes.tokens), (self.pages, changes.pages)):
            slots, places, values = words[part].view(3, -1)
            if len(slots):
                target[slots, places] = values.int()
        if changes.rules is not None:
            self.rules.scalars.copy_(words[changes.rules].view(torch.uint8))
        slots = words[changes.list_slots]
        for field, part in zip(_lists(self.rules), changes.lists, strict=False):
            field[slots] = words[part].view(field.dtype).view(-1, field.shape[1])

    def append(self, slots: Tensor, positions: Tensor, token_ids: Tensor) -> None:
        """Scatter sampled ids [rows] int32. Of an invalid one the next step must find an id that can be looked up."""
        self.token_ids[slots, positions] = token_ids.clamp(min=0)

    # -- inputs ----------------------------------------------------------------------------------------------------------

    def batch(self, rows: RowWords, num_tokens: int, num_pages: int, logit_rows: Tensor) -> ForwardBatch:
        """The inputs of a step of any kind. num_pages: of its longest row. logit_rows: [wanted] int64."""
        query_starts = torch.nn.functional.pad(rows.counts.cumsum(0), (1, 0))  # [rows + 1]
        if num_tokens == len(rows.slots):
            token_slots, positions = rows.slots, rows.starts
        else:
            owners = self._range(len(rows.slots)).repeat_interleave(rows.counts, output_size=num_tokens)  # [tokens]
            positions = self._range(num_tokens) - query_starts[owners] + rows.starts[owners]
            token_slots = rows.slots[owners]
        return ForwardBatch(
            token_ids=self.token_ids[token_slots, positions].long(),
            positions=positions.int(),
            query_starts=query_starts.int(),
            kv_lengths=(rows.starts + rows.counts).int(),
            page_tables=self.pages[:, :num_pages][rows.slots],
            write_slots=self._write_slots(token_slots, positions),
            logit_rows=logit_rows,
        )

    def decode_batch(self, slots: Tensor, positions: Tensor) -> ForwardBatch:
        """The inputs of a step in which each row computes the token at its position [rows] int64. Of fixed shapes."""
        num_rows = len(slots)
        return ForwardBatch(
            token_ids=self.token_ids[slots, positions].long(),
            positions=positions.int(),
            query_starts=torch.arange(num_rows + 1, dtype=torch.int32, device=self.device),
            kv_lengths=(positions + 1).int(),
            page_tables=self.pages[slots],
            write_slots=self._write_slots(slots, positions),
            logit_rows=self._range(num_rows),
        )

    def queries(self, slots: Tensor, kv_lengths: Tensor, num_pages: int) -> Queries:
        """Single tokens that look at the first `kv_lengths` [tokens] int64 keys of their slots [tokens]."""
        starts = torch.arange(len(slots) + 1, dtype=torch.int32, device=self.device)
        return Queries(starts, kv_lengths.int(), self.pages[:, :num_pages][slots])

    def _write_slots(self, slots: Tensor, positions: Tensor) -> Tensor:
        pages = self.pages[slots, positions // self.page_size]  # [tokens]
        return pages * self.page_size + (positions % self.page_size).int()

    def _range(self, num: int) -> Tensor:
        return torch.arange(num, device=self.device)


def _lists(rules: SlotRules) -> tuple[Tensor, ...]:
    return rules.masked_ids, rules.bias_ids, rules.bias_values
