"""One rank's part of a model: which rows and columns of each stored tensor are its own, and the smaller decoder they make.

The products that make queries, keys, values, gate and up give up rows, and with them outputs; those that follow them give up
columns, and so do not add up to the result before all ranks' are added. Embedding and norms are whole on every rank; a head
gives up rows, also one that is tied to the embedding, of which it becomes a copy. Invariant: the cuts of all ranks together
are the whole tensor, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from runtime.errors import ConfigError
from runtime.layers.rank_group import RankGroup
from runtime.layers.sharding import Partition, partition
from runtime.models.spec import DecoderSpec

SUMMED_ROLES = ("output", "down")
"""The products whose inputs are cut, by `DecoderSpec.linears`."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a stored tensor: some ranges of its rows, one after the other, and of these one range of columns."""

    rows: tuple[range, ...] | None = None
    """None: all."""
    columns: range | None = None

    def __call__(self, tensor: Tensor) -> Tensor:
        """tensor: [rows, columns], or [rows] without a cut of columns. A view of it, unless there are several ranges."""
        tensor = self.of_rows(tensor)
        return tensor if self.columns is None else tensor[:, self.columns.start : self.columns.stop]

    def of_rows(self, tensor: Tensor) -> Tensor:
        """tensor: [rows, ...], whatever a row is made of."""
        if self.rows is None:
            return tensor
        parts = [tensor[part.start : part.stop] for part in self.rows]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


WHOLE = Cut()


@dataclass(frozen=True, slots=True)
class Shard:
    """A rank's part. `cuts`: by the names of the stored tensors; those that are not there are not cut."""

    group: RankGroup
    cuts: Mapping[str, Cut]
    vocab_widths: tuple[int, ...]
    """Columns of the logits that each rank computes."""


def make_shard(spec: DecoderSpec, group: RankGroup) -> tuple[DecoderSpec, Shard]:
    """The decoder that this rank builds and what it is made of.

    Raises `ConfigError` if there are too many ranks, or if there is a mixture of experts.
    """
    if any(layer.mixture for layer in spec.layers):
        raise ConfigError("a mixture of experts can not be shared among ranks yet: use --tp-size 1")
    parts = partition(
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        intermediate_size=spec.intermediate_size,
        vocab_size=spec.vocab_size,
        num_ranks=group.size,
    )
    own = replace(
        spec,
        num_heads=len(parts.heads[group.rank]),
        num_kv_heads=len(parts.kv_heads[group.rank]),
        intermediate_size=len(parts.mlp[group.rank]),
        tied_head=False,
    )
    return own, Shard(group, _cuts(spec, parts, group.rank), tuple(len(part) for part in parts.vocab))


def _cuts(spec: DecoderSpec, parts: Partition, rank: int) -> dict[str, Cut]:
    cuts = {f"{spec.names.head}.weight": Cut(rows=(parts.vocab[rank],))}
    for layer in range(spec.num_layers):
        cuts |= _layer_cuts(spec, layer, parts, rank)
    return cuts


def _layer_cuts(spec: DecoderSpec, layer: int, parts: Partition, rank: int) -> dict[str, Cut]:
    q, kv = (_scaled(part[rank], spec.head_dim) for part in (parts.heads, parts.kv_heads))
    mlp = parts.mlp[rank]
    q_rows, kv_rows = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    linears = spec.linears(layer)
    cuts = _row_cuts(linears["qkv"].modules, (q_rows, kv_rows, kv_rows), (q, kv, kv))
    cuts |= _row_cuts(linears["gate_up"].modules, (spec.intermediate_size,) * 2, (mlp, mlp))
    for role, columns in zip(SUMMED_ROLES, (q, mlp), strict=True):
        cuts |= {f"{module}.weight": Cut(columns=columns) for module in linears[role].modules}
    return cuts


def _row_cuts(modules: tuple[str, ...], sizes: tuple[int, ...], parts: tuple[range, ...]) -> dict[str, Cut]:
    """`parts` of the rows of several modules, or of one that is stored fused. sizes: all rows of each."""
    if len(modules) == len(parts):
        rows_of: dict[str, tuple[range, ...]] = {module: (part,) for module, part in zip(modules, parts, strict=True)}
    else:
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        rows_of = {modules[0]: tuple(_shifted(part, start) for part, start in zip(parts, starts, strict=True))}
    return {f"{module}.{kind}": Cut(rows=rows) for module, rows in rows_of.items() for kind in ("weight", "bias")}


def _scaled(part: range, factor: int) -> range:
    return range(part.start * factor, part.stop * factor)


def _shifted(part: range, start: int) -> range:
    return range(part.start + start, part.stop + start)
