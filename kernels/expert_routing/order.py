"""Where each token's copies go when tokens are sorted by expert: what the grouped product reads. Lives on the device."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExpertOrder:
    """A pair is a token and one of its experts, number `token * top_k + slot`. A row is a pair's place when sorted by expert.

    Within an expert pairs keep their order. Rows are computed in tiles of at most `rows_per_tile`, each of one expert. The
    number of tiles is known only on the device: `tile_experts` is as long as it can get, and filled with -1.
    """

    starts: Tensor  # [experts + 1] int32: rows of expert e are starts[e]:starts[e + 1]
    pairs: Tensor  # [pairs] int32: the pair of each row
    rows: Tensor  # [tokens, top_k] int32: the row of each pair
    tile_experts: Tensor  # [max_tiles] int32, or -1
    tile_starts: Tensor  # [max_tiles] int32: a tile's first row
    rows_per_tile: int

    @property
    def top_k(self) -> int:
        return self.rows.shape[1]


def max_tiles(num_pairs: int, num_experts: int, rows_per_tile: int) -> int:
    """How many tiles there can be: all that are full, and one more for each expert that has pairs."""
    return min(num_pairs, num_pairs // rows_per_tile + num_experts)
