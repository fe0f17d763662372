"""Who computes what under tensor parallelism: a pure partition of a decoder's heads, feed-forward and vocabulary.

Heads go by whole groups, the query heads of one key-value head, so that attention needs nothing of another rank. The
feed-forward is cut at multiples of `MLP_UNIT`, the size of quantized blocks, and the vocabulary at multiples of `VOCAB_UNIT`,
the kernels' tile. Nothing has to divide evenly: shares differ by at most one unit. Every rank has a share of everything.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import ConfigError

MLP_UNIT = 32
VOCAB_UNIT = 16


@dataclass(frozen=True, slots=True)
class Partition:
    """The ranges of each rank, in order and without gaps."""

    heads: tuple[range, ...]
    kv_heads: tuple[range, ...]
    mlp: tuple[range, ...]
    """Of the intermediate size."""
    vocab: tuple[range, ...]


def partition(*, num_heads: int, num_kv_heads: int, intermediate_size: int, vocab_size: int, num_ranks: int) -> Partition:
    """Raises `ConfigError`, which names the largest possible number, if there are too many ranks for a share each."""
    most = min(num_kv_heads, _num_units(intermediate_size, MLP_UNIT), _num_units(vocab_size, VOCAB_UNIT))
    if num_ranks > most:
        raise ConfigError(
            f"--tp {num_ranks} is too much for this model, which has {num_kv_heads} key-value heads: it can be at most {most}"
        )
    kv_heads = split(num_kv_heads, num_ranks)
    group = num_heads // num_kv_heads
    return Partition(
        heads=tuple(range(part.start * group, part.stop * group) for part in kv_heads),
        kv_heads=kv_heads,
        mlp=split(intermediate_size, num_ranks, MLP_UNIT, last_get_more=True),
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
