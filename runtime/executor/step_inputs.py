"""The numbers that a step sends to the device, and the inputs of the model that the device makes of them.

The host sends a few numbers per row and per wanted output; whatever there is per token is computed on the device, from its
batch table.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from kernels.sampling import SlotRules
from runtime.executor.device_table import DeviceTable, RowWords
from runtime.executor.device_wishes import DeviceWishes
from runtime.executor.outputs import Outputs
from runtime.executor.packet import Packet, Transfers
from runtime.executor.rows import Ints
from runtime.executor.slot_book import HostStep
from runtime.executor.wishes import WishRow
from runtime.layers.forward import ForwardBatch, Queries


class StepInputs:
    """Made for one step; `send` comes before all that is on the device. `buckets` says which graph takes so many rows."""

    def __init__(self, step: HostStep, table: DeviceTable, rules: SlotRules, buckets: Callable[[int], int | None]) -> None:
        self._step = step
        self._table = table
        self._step = step
        self._table = table
        self._words: Tensor | None = None
        self.wish_rows: dict[int, WishRow] = {}
        """By index into the rows that run."""
        wanted = self._want()
        fits_graph = step.is_decode and len(wanted) == len(step.sampled.slots)
        self.bucket = buckets(len(wanted)) if fits_graph else None
        """The size of the step's graph, if it has one."""
        packet = self._packet = Packet()
        rows, sampled = step.rows, step.sampled
        self._changes = table.pack(step.changes, rules, packet)
        self._sampled = packet.add([sampled.slots, sampled.ends])
        if self.bucket is not None:
            self._padded = packet.add(_padded(step, self.bucket, table.scratch_slot))
        else:
            self._rows = packet.add([rows.slots, rows.starts, rows.ends - rows.starts])
            self._pack_wanted(packet, wanted)
        self.wishes = DeviceWishes(list(self.wish_rows.values()), packet)

    @property
    def words(self) -> Tensor:
        """The packet on the device."""
        assert self._words is not None, "send comes first"
        return self._words

    def send(self, transfers: Transfers) -> None:
        """Copy it to the device, and change the table there."""
        self._words = transfers.send(self._packet)
        self._table.apply(self._changes, self._words)

    @property
    def sampled_slots(self) -> Tensor:
        """[sampled] int64"""
        return self.words[self._sampled].view(2, -1)[0]

    @property
    def sampled_ends(self) -> Tensor:
        """[sampled] int64, the positions of the results."""
        return self.words[self._sampled].view(2, -1)[1]

    @property
    def padded(self) -> Tensor:
        """[2, bucket] int64, slots and positions for the step's graph."""
        return self.words[self._padded].view(2, -1)

    def batch(self) -> tuple[ForwardBatch, Queries]:
        """What the model computes without a graph, and the tokens whose outputs are wanted."""
        slots, starts, counts = self.words[self._rows].view(3, -1)
        num_tokens, num_pages = int((self._step.rows.ends - self._step.rows.starts).sum()), self._step.num_pages
        logit_rows, owners, lengths = self.words[self._wanted].view(3, -1)
        batch = self._table.batch(RowWords(slots, starts, counts), num_tokens, num_pages, logit_rows)
        if self._wants_all:
            return batch, batch.queries
        return batch, self._table.queries(slots[owners], lengths, num_pages)

    def _want(self) -> Ints:
        """[wanted] the last tokens of sampled rows, then those whose outputs are wished for."""
        rows = self._step.rows
        outputs = Outputs(rows, rows.samples)
        places = rows.samples.cumsum() - 1
        for index, followed in self._step.followed:
            if followed.extras.wish is not None:
                place = int(places[index]) if rows.samples[index] else None
                self.wish_rows[index] = outputs.want(followed.extras.wish, index, place, followed.token_ids)
        return outputs.tokens()

    def _pack_wanted(self, packet: Packet, wanted: Ints) -> None:
        rows = self._step.rows
        ends = (rows.ends - rows.starts).cumsum()  # [rows] where their tokens end
        owners: Ints = np.searchsorted(ends, wanted, side="right")
        num_later = ends[owners] - 1 - wanted
        self._wanted = packet.add([wanted, owners, rows.ends[owners] - num_later])
        num_tokens = int(ends[-1]) if len(ends) else 0
        self._wants_all = len(wanted) == num_tokens and bool((wanted == np.arange(num_tokens)).all())


def _padded(step: HostStep, bucket: int, scratch_slot: int) -> Ints:
    """Rows that fill up compute the token at position 0 of the scratch slot, which sees only itself."""
    padded = np.zeros((2, bucket), dtype=np.int64)
    padded[0] = scratch_slot
    num_rows = len(step.rows.slots)
    padded[0, :num_rows], padded[1, :num_rows] = step.rows.slots, step.rows.starts
    return padded
