"""The ranks that compute one model together, and what they exchange while they do: collectives that all of them enter.

Every rank calls the same collectives in the same order with tensors of the same shape and dtype, or they do not end well.
Invariant: a collective that can not complete raises `RankLost` and nothing else; the group is of no use after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from runtime.errors import ConfigError


class RankGroup(Protocol):
    """This rank's end of the group. Collectives raise `RankLost`; one at a time, on one thread."""

    @property
    def rank(self) -> int:
        """0 ≤ rank < size; rank 0 leads."""
        ...

    @property
    def size(self) -> int: ...

    @property
    def num_local(self) -> int:
        """Ranks on this machine, this one included, which share its memory and cores."""
        ...

    def all_reduce_sum(self, x: Tensor) -> None:
        """Add up every rank's contiguous `x` in place, in the order of the ranks, so that a row does not depend on others."""
        ...

    def gather_columns(self, part: Tensor, widths: Sequence[int]) -> Tensor:
        """On rank 0 all parts side by side, [rows, sum(widths)]; elsewhere `part` itself.

        part: [rows, widths[rank]].
        """
        ...

    def broadcast(self, x: Tensor) -> None:
        """Overwrite the contiguous `x` with that of rank 0."""
        ...

    def least(self, value: int) -> int:
        """The least value of any rank. May wait for as long as a rank may take to start."""
        ...

    def abort(self) -> None:
        """Break off what runs: a thread that waits in a collective gets `RankLost`. May be called on any thread."""
        ...


def check_agreement(group: RankGroup, fingerprint: int, what: str) -> None:
    """Raises `ConfigError` on every rank unless all have the same `fingerprint`, which stands for `what`."""
    lowest, highest = group.least(fingerprint), -group.least(-fingerprint)
    if lowest != highest:
        raise ConfigError(f"the ranks do not agree on {what}: start all of them with the same model and flags")
