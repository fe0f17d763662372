"""A step that the device computes: what has to be read, and done on the host, when it has ended.

The launcher makes it; the completer alone touches it afterwards, and the sequences in it that the host follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from runtime.executor.device_port import Mark
from runtime.executor.device_wishes import DeviceWishes
from runtime.executor.extras import ExtraRow
from runtime.executor.followed import Followed, Forced, Lost
from runtime.executor.packet import Transfers
from runtime.executor.rows import Bools, Ints
from runtime.messages import INVALID_TOKEN, RowExtra, StepDone

Tell = Callable[[Forced | Lost], None]


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """`tell` brings news to the launcher before it prepares the step after the next."""

    step_id: int
    begun: Mark
    ended: Mark
    transfers: Transfers
    """Held here until the device has passed `ended`."""
    token_ids: Tensor | None
    """[rows with a result] int32 on the host, once the step has ended."""
    is_result: Bools
    """[sampled rows of the plan] False for those that were not run."""
    followed: list[tuple[ExtraRow, Followed]]
    wishes: DeviceWishes
    sequences: Ints
    """[2, rows] slots and generations of all that are in the step."""
    host_us: int
    tell: Tell

    def wait(self) -> None:
        """Until the device has computed it. Raises RuntimeError if it could not."""
        self.ended.wait()

    def complete(self) -> StepDone:
        """Read the results. `wait` came before. Raises what reading them raises; then `lose` has to follow."""
        found = [] if self.token_ids is None else self.token_ids.tolist()
        extras = [extra for row, followed in self.followed if (extra := self._extra(row, followed, found)) is not None]
        results = np.full(len(self.is_result), INVALID_TOKEN, dtype=np.int64)
        results[self.is_result] = found
        return StepDone(
            step_id=self.step_id,
            token_ids=tuple(results.tolist()),
            extras=tuple(extras),
            device_us=self.ended.us_since(self.begun),
            host_us=self.host_us,
        )

    def lose(self) -> None:
        """Its sequences miss something from now on."""
        for slot, generation in self.sequences.T.tolist():
            self.tell(Lost(slot, generation))

    def _extra(self, row: ExtraRow, followed: Followed, found: list[int]) -> RowExtra | None:
        token_id = INVALID_TOKEN if row.chosen is None else found[row.chosen]
        if row.chosen is not None:
            followed.append([max(token_id, 0)])
            start = followed.num_tokens
            forced = followed.append(row.advance(token_id))
            if len(forced):
                self.tell(Forced(followed.slot, followed.generation, start, forced))
        is_known = row.is_sampled and (row.chosen is None or token_id != INVALID_TOKEN)
        return row.report(followed.known_ids(row.end) if is_known else [], self.wishes.grant)
