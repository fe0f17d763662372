"""Who computes what under tensor parallelism: a pure partition of a decoder's heads, feed-forward and vocabulary.

Heads go by whole groups, the query heads of one key-value head, so that attention needs nothing of another rank. The
feed-forward is cut at multiples of `MLP_UNIT`, the size of quantized blocks, and the vocabulary at multiples of `VOCAB_UNIT`,
the kernels' tile. Nothing has to divide evenly: shares differ by at most one unit. Every rank has a share of everything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from runtime.errors import ConfigError

MLP_UNIT = 32
VOCAB_UNIT = 16


@dataclass(frozen=True, slots=True)
class Partition:
    """The ranges of each rank, in order and without gaps."""

    heads: tuple[range, ...]
    kv_heads: tuple[range, ...]
    mlp: Mapping[int, tuple[range, ...]]
    """By the intermediate size that is shared."""
    vocab: tuple[range, ...]


def partition(*, num_heads: int, num_kv_heads: int, mlp_sizes: Collection[int], vocab_size: int, num_ranks: int) -> Partition:
    """mlp_sizes: the intermediate sizes of all feed-forward parts, those of experts too.

    Raises `ConfigError`, which names the largest possible number, if there are too many ranks for a share each.
    """
    units = (_num_units(vocab_size, VOCAB_UNIT), *(_num_units(size, MLP_UNIT) for size in mlp_sizes))
    most = min(num_kv_heads, *units)
    if num_ranks > most:
        raise ConfigError(
            f"--tp {num_ranks} is too much for this model, which has {num_kv_heads} key-value heads and {min(units)} blocks of"
            f" its narrowest layer to share: it can be at most {most}"
        )
    kv_heads = split(num_kv_heads, num_ranks)
    group = num_heads // num_kv_heads
    return Partition(
        heads=tuple(range(part.start * group, part.stop * group) for part in kv_heads),
        kv_heads=kv_heads,
        mlp={size: split(size, num_ranks, MLP_UNIT, last_get_more=True) for size in mlp_sizes},
        vocab=split(vocab_size, num_ranks, VOCAB_UNIT, last_get_more=True),
    )


def split(num_items: int, num_parts: int, unit: int = 1, *, last_get_more: bool = False) -> tuple[range, ...]:
    """Consecutive ranges that start at multiples of `unit`; the units that are left over go to the first parts, or the last."""
    num_units, num_left = divmod(_num_units(num_items, unit), num_parts)
    shares = [num_units + 1] * num_left + [num_units] * (num_parts - num_left)
    if last_get_more:
        shares.reverse()
    ends = [min(num_items, sum(shares[: part + 1]) * unit) for part in range(num_parts)]
    return tuple(range(start, end) for start, end in zip([0, *ends], ends, strict=False))


def _num_units(num_items: int, unit: int) -> int:
    return -(-num_items // unit)
