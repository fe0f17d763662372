"""What rank 0 and the other ranks say to each other, beside the orders: how a rank begins and how it ends."""

from __future__ import annotations

import msgspec

from runtime.executor.orders import Order


class MeetRanks(msgspec.Struct, frozen=True, tag=True):
    """Rank 0 → rank: the group for collectives forms at this port of rank 0's address. Orders come after it."""

    port: int


class EndRank(msgspec.Struct, frozen=True, tag=True):
    """Rank 0 → rank: there will be no more orders."""


class RankFailed(msgspec.Struct, frozen=True, tag=True):
    """Rank → rank 0: it can not go on; `message` is one line, `exit_code` that of the error."""

    message: str
    exit_code: int


class StopAsked(msgspec.Struct, frozen=True, tag=True):
    """Rank → rank 0: the operator wants this machine's ranks to end, so the server has to."""


ToRank = Order | MeetRanks | EndRank
FromRank = RankFailed | StopAsked
