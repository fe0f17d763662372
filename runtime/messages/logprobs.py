"""Log probabilities, as steps and results carry them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import msgspec


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of successive tokens; `top` and `chosen` have one entry per token, or none if nobody asked."""

    token_ids: tuple[int, ...]
    values: tuple[float | None, ...]
    """None for the first token of a prompt, here and instead of its entries in `top` and `chosen`."""
    top: tuple[tuple[tuple[int, float], ...] | None, ...] = ()
    """(token id, log probability), the likeliest first."""
    chosen: tuple[tuple[tuple[int, float], ...] | None, ...] = ()
    """Of `LogprobOptions.token_ids`, in their order."""


def joined_logprobs(parts: Sequence[TokenLogprobs]) -> TokenLogprobs:
    """All of `parts`, which follow each other, as one."""
    return TokenLogprobs(
        token_ids=tuple(chain.from_iterable(part.token_ids for part in parts)),
        values=tuple(chain.from_iterable(part.values for part in parts)),
        top=tuple(chain.from_iterable(part.top for part in parts)),
        chosen=tuple(chain.from_iterable(part.chosen for part in parts)),
    )
