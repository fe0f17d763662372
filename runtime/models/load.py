"""From a checkpoint to a model that computes: the one call that the executor makes."""

from __future__ import annotations

from tqdm import tqdm

from runtime.errors import LoadError
from runtime.layers.placement import ON_HOST, Placement
from runtime.layers.precision import compute_dtype, device_dtype
from runtime.layers.quantized import ROUNDINGS
from runtime.layers.rank_group import RankGroup
from runtime.loading.checkpoint import Checkpoint
from runtime.models.architectures import spec_for
from runtime.models.decoder import Decoder, build_decoder
from runtime.models.shard import make_shard
from runtime.models.spec import weight_shapes
from runtime.models.weights import Weights


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: str = "auto",
    activation_bits: str = "mixed",
    num_positions: int | None = None,
    show_progress: bool = True,
    group: RankGroup | None = None,
    placement: Placement = ON_HOST,
) -> Decoder:
    """Read, convert and pack all weights; a progress bar on a terminal tells how far it is.

    dtype: as `--dtype`; with "auto" quantized weights keep their blocks, with any other they become numbers of that type.
    activation_bits: as `--activation-bits`, one of `ROUNDINGS`.
    num_positions: longest sequence in tokens, by default what the model was made for.
    group: the ranks that share the model, of which only this one's part is loaded; None: it is not shared.
    placement: where it computes, and with which kernels.
    Raises `LoadError` when the architecture is not served, the files do not match the config or memory is short, and
    `ConfigError` when there are more ranks than parts.
    """
    spec = spec_for(checkpoint.config)
    stored = checkpoint.tensors(weight_shapes(spec), str(placement.device))
    is_plain = placement.is_plain
    compute = device_dtype(dtype, has_bfloat16=placement.has_bfloat16) if is_plain else compute_dtype(dtype)
    shard = None
    if group is not None:
        if spec.tied_head:
            stored[f"{spec.names.head}.weight"] = stored[f"{spec.names.embedding}.weight"]
        spec, shard = make_shard(spec, group)
    with tqdm(total=len(stored), desc="Loading weights", unit="tensor", disable=None if show_progress else True) as progress:
        try:
            rounding = ROUNDINGS[activation_bits] if dtype == "auto" and not is_plain else None
            weights = Weights(stored, compute, progress, rounding=rounding, shard=shard, placement=placement)
            return build_decoder(spec, weights, compute, num_positions or spec.context_length, placement)
        except (MemoryError, RuntimeError) as error:  # torch says RuntimeError when it can not allocate
            raise LoadError(f"{checkpoint.path}: the model can not be loaded: {str(error).splitlines()[0]:.200}") from error
