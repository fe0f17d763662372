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
from runtime.models.spec import DecoderSpec, LayerSpec, LinearSpec

SUMMED_ROLES = ("output", "down")
"""The products whose inputs are cut, by `DecoderSpec.linears`, and which are summed one by one."""
EXPERT_ROLES = ("expert_down", "shared_down")
"""Those whose inputs are cut, and which are summed with the mixture that they are part of."""


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

    Raises `ConfigError` if there are too many ranks, or if a norm goes over all heads, of which no rank has all.
    """
    if spec.norms_all_heads:
        raise ConfigError("this model norms all heads of a token together, so ranks can not share them: use --tp 1")
    parts = partition(
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        mlp_sizes=_mlp_sizes(spec),
        vocab_size=spec.vocab_size,
        num_ranks=group.size,
    )
    own_sizes = {size: len(ranges[group.rank]) for size, ranges in parts.mlp.items()}
    own = replace(
        spec,
        num_heads=len(parts.heads[group.rank]),
        num_kv_heads=len(parts.kv_heads[group.rank]),
        intermediate_size=own_sizes.get(spec.intermediate_size, spec.intermediate_size),
        layers=tuple(_own_layer(layer, own_sizes) for layer in spec.layers),
        tied_head=False,
    )
    return own, Shard(group, _cuts(spec, parts, group.rank), tuple(len(part) for part in parts.vocab))


def _mlp_sizes(spec: DecoderSpec) -> set[int]:
    """The intermediate sizes of everything that is there."""
    sizes: set[int] = set()
    for layer in spec.layers:
        mixture = layer.mixture
        sizes |= {spec.intermediate_size} if mixture is None else {mixture.intermediate_size, mixture.shared_size} - {0}
    return sizes


def _own_layer(layer: LayerSpec, own_sizes: Mapping[int, int]) -> LayerSpec:
    mixture = layer.mixture
    if mixture is None:
        return layer
    own = own_sizes[mixture.intermediate_size]
    return replace(layer, mixture=replace(mixture, intermediate_size=own, shared_size=own_sizes.get(mixture.shared_size, 0)))


def _cuts(spec: DecoderSpec, parts: Partition, rank: int) -> dict[str, Cut]:
    cuts = {f"{spec.names.head}.weight": Cut(rows=(parts.vocab[rank],))}
    for layer in range(spec.num_layers):
        cuts |= _layer_cuts(spec, layer, parts, rank)
    return cuts


def _layer_cuts(spec: DecoderSpec, layer: int, parts: Partition, rank: int) -> dict[str, Cut]:
    q, kv = (_scaled(part[rank], spec.head_dim) for part in (parts.heads, parts.kv_heads))
    q_rows, kv_rows = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    linears = spec.linears(layer)
    cuts = _row_cuts(linears["qkv"].modules, (q_rows, kv_rows, kv_rows), (q, kv, kv)) | _column_cuts(linears["output"], q)
    for prefix in ("", "shared_"):
        if f"{prefix}down" in linears:
            cuts |= _gated_cuts(linears[f"{prefix}gate_up"], linears[f"{prefix}down"], parts, rank)
    for expert in spec.experts(layer):
        cuts |= _gated_cuts(expert["gate_up"], expert["down"], parts, rank)
    return cuts


def _gated_cuts(gate_up: LinearSpec, down: LinearSpec, parts: Partition, rank: int) -> dict[str, Cut]:
    size = down.in_features
    own = parts.mlp[size][rank]
    return _row_cuts(gate_up.modules, (size, size), (own, own)) | _column_cuts(down, own)


def _column_cuts(linear: LinearSpec, columns: range) -> dict[str, Cut]:
    return {f"{module}.weight": Cut(columns=columns) for module in linear.modules}


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
