"""Tokens in whose choice the host has a say: of sequences with a grammar or a custom processor.

The forward pass of their step is launched like any other. Their choice waits until the steps before are complete: only then
does the host know the tokens so far, where the grammar stands, and whether it has already forced the token in question.
A grammar then sends a bitmask to the device's sampler. A processor is NumPy code of the operator's, so its row of logits comes
to the host and is sampled there, which waits for the device; that costs only the steps that have such rows their overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from runtime.executor.device_port import DevicePort
from runtime.executor.followed import Followed
from runtime.executor.packet import Packet, Transfers
from runtime.executor.rows import Ints
from runtime.sampling.matcher import Mask
from runtime.sampling.sampler import SpecialRow, sample


@dataclass(frozen=True, slots=True)
class LateRow:
    """A row to choose for. `place` is its row of logits, `end` the position of its result."""

    place: int
    end: int
    followed: Followed


@dataclass
class LateChoice:
    """The late rows of one step."""

    rows: list[LateRow]
    known: dict[int, int] = field(default_factory=dict)
    """By place: ids that a grammar has forced already."""
    _chosen: dict[int, int] = field(default_factory=dict)
    _masks: list[Mask] = field(default_factory=list)
    _mask_places: list[int] = field(default_factory=list)

    def decide(self, logits: Tensor, port: DevicePort, transfers: Transfers) -> None:
        """Bring grammars up to date and call the processors. The steps before are complete. logits: [sampled, vocab]"""
        hosted: list[LateRow] = []
        for row in self.rows:
            constraint = row.followed.extras.constraint
            if row.followed.num_tokens > row.end:
                self.known[row.place] = int(row.followed.token_ids[row.end])
                continue
            if constraint is not None:
                constraint.fill_mask()
            if row.followed.extras.processor is not None:
                hosted.append(row)
            elif constraint is not None:
                self._masks.append(constraint.mask)
                self._mask_places.append(row.place)
        if hosted:
            self._choose_here(hosted, logits, port, transfers)

    def masks(self, num_rows: int, transfers: Transfers) -> tuple[Tensor | None, Tensor | None]:
        """For the sampler: [masks, words] and [rows] int32, which mask is each row's."""
        if not self._masks:
            return None, None
        packet = Packet()
        mask_rows = np.full(num_rows, -1, dtype=np.int32)
        mask_rows[self._mask_places] = np.arange(len(self._masks))
        masks = np.stack(self._masks)
        at_rows, at_masks = packet.add_bytes(mask_rows), packet.add_bytes(masks)
        words = transfers.send(packet)
        return words[at_masks].view(torch.int32)[: masks.size].view(masks.shape), words[at_rows].view(torch.int32)[:num_rows]

    def correct(self, token_ids: Tensor, transfers: Transfers) -> None:
        """Put what is known, or was chosen here, in its place in `token_ids` [sampled] int32."""
        decided = self.known | self._chosen
        if decided:
            packet = Packet()
            places, values = packet.add(list(decided)), packet.add(list(decided.values()))
            words = transfers.send(packet)
            token_ids[words[places]] = words[values].int()

    def _choose_here(self, rows: list[LateRow], logits: Tensor, port: DevicePort, transfers: Transfers) -> None:
        packet = Packet()
        places = packet.add([row.place for row in rows])
        fetched = transfers.fetch(logits[transfers.send(packet)[places]])  # [hosted, vocab]
        port.mark().wait()
        specials = [_special(index, row) for index, row in enumerate(rows)]
        token_ids: Ints = sample(fetched, specials)
        self._chosen |= {row.place: int(token_id) for row, token_id in zip(rows, token_ids, strict=True)}


def _special(index: int, row: LateRow) -> SpecialRow:
    followed = row.followed
    return followed.extras.extend(SpecialRow(index, followed.rules, followed.token_ids[: row.end]))
