"""Log probabilities that a device reads off the logits of its rows, and what they say on the host when its step has ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kernels.top_logprobs import TopLogprobs, top_logprobs
from runtime.executor.packet import Packet, Transfers
from runtime.messages import TokenLogprobs
from runtime.params import LogprobOptions

NO_ID = -1


class AskedRows:
    """Rows of logits that are looked at together. `packet` gets what is asked about, the same row for row."""

    def __init__(self, packet: Packet, options: Sequence[LogprobOptions]) -> None:
        chosen = np.full((len(options), max(len(each.token_ids) for each in options)), NO_ID, dtype=np.int64)
        for row, each in zip(chosen, options, strict=True):
            row[: len(each.token_ids)] = each.token_ids
        self.num_rows = len(options)
        self._num_top = max(each.num_top for each in options)
        self._chosen = packet.add(chosen)

    def read(self, logits: Tensor, token_ids: Tensor, words: Tensor, rows: slice) -> TopLogprobs:
        """Of some of the rows, on the device. logits: [rows, vocab]; token_ids: [rows] int64; words: the packet."""
        chosen = words[self._chosen].view(self.num_rows, -1)[rows]
        return top_logprobs(logits, torch.cat((token_ids[:, None], chosen), dim=1).int(), self._num_top)


def fetched(parts: Sequence[TopLogprobs], transfers: Transfers) -> TopLogprobs:
    """All rows of `parts`, one below the other, on the host once the step has ended."""
    columns = zip(*parts, strict=True)
    return TopLogprobs(*(transfers.fetch(torch.cat(column) if len(column) > 1 else column[0]) for column in columns))


def token_logprobs(found: TopLogprobs, rows: slice, token_ids: Sequence[int], options: LogprobOptions) -> TokenLogprobs | None:
    """Of `token_ids`, one for each of `rows` of what was found; None if a row has no probabilities."""
    if not np.isfinite(found.normalizers[rows].numpy()).all():
        return None
    values, num_chosen = found.values[rows].tolist(), len(options.token_ids)
    top = zip(found.top_ids[rows, : options.num_top].tolist(), found.top_values[rows, : options.num_top].tolist(), strict=True)
    return TokenLogprobs(
        token_ids=tuple(token_ids),
        values=tuple(row[0] for row in values),
        top=tuple(tuple(zip(*row, strict=True)) for row in top) if options.num_top else (),
        chosen=tuple(tuple(zip(options.token_ids, row[1 : num_chosen + 1], strict=True)) for row in values)
        if options.token_ids
        else (),
    )
