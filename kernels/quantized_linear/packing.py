"""Quantized weights in the layout that the kernel reads, made from GGUF blocks or from plain weights.

A tile is 16 outputs. Its blocks of 32 inputs follow each other; within a block the four bytes that one lane multiplies at a
time lie together: group g of four inputs takes 64 bytes, output by output. With 4 bits, groups g and g + 4 share 64 bytes,
as low and high nibbles. Nothing is lost against GGUF, and nothing else of the weight is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.huge_pages import HugePages

BLOCK = 32  # inputs that share a scale
TILE = 16  # outputs side by side
GROUPS = BLOCK // 4


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight [num_outputs, num_inputs] where weight = scale * (quant - zero_point) + minimum."""

    quants: Tensor  # [tiles, blocks, 256 (4 bits) or 512 (8 bits)] uint8
    scales: Tensor  # [tiles, blocks, 16] float16
    minima: Tensor | None  # [tiles, blocks, 16] float16
    num_outputs: int
    num_inputs: int
    bits: int
    zero_point: int

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.quants, self.scales, self.minima) if tensor is not None)

    def placed(self, memory: HugePages) -> PackedWeight:
        """The same weight there, where it is read faster."""
        minima = None if self.minima is None else memory.place(self.minima)
        return replace(self, quants=memory.place(self.quants), scales=memory.place(self.scales), minima=minima)


@dataclass(frozen=True, slots=True)
class Blocks:
    """A quantized weight before it is packed."""

    quants: Tensor  # [outputs, blocks, 32] uint8
    scales: Tensor  # [outputs, blocks] float16
    minima: Tensor | None  # [outputs, blocks] float16
    bits: int
    zero_point: int


def pack(raw: Tensor, gguf_type: str, num_outputs: int, num_inputs: int) -> PackedWeight:
    """Packs a GGUF tensor. To fuse layers with the same inputs, concatenate their raw bytes first.

    raw: uint8, any shape, the bytes of the rows in order. gguf_type: one of `GGUF_TYPES`.
    Raises ValueError for another type, or for sizes that do not fit.
    """
    if gguf_type not in GGUF_TYPES:
        raise ValueError(f"cannot pack {gguf_type}: choose one of {', '.join(GGUF_TYPES)}")
    if num_inputs % BLOCK:
        raise ValueError(f"cannot pack {num_inputs} inputs: the blocks of {gguf_type} have {BLOCK}")
    block_bytes, split = GGUF_TYPES[gguf_type]
    num_blocks = num_inputs // BLOCK
    if raw.numel() != num_outputs * num_blocks * block_bytes:
        raise ValueError(f"{raw.numel()} bytes are not [{num_outputs}, {num_inputs}] of {gguf_type}")
    return pack_blocks(split(raw.reshape(num_outputs, num_blocks, block_bytes)))


def quantize(weight: Tensor, bits: int = 8) -> PackedWeight:
    """Rounds a plain weight [outputs, inputs] to 8 bits (scale) or 4 bits (scale and minimum) in blocks of 32 and packs it.

    Raises ValueError unless inputs is a multiple of 32 and bits is 4 or 8.
    """
    if weight.shape[1] % BLOCK or bits not in (4, 8):
        raise ValueError(f"cannot quantize {tuple(weight.shape)} to {bits} bits: inputs in blocks of {BLOCK}, bits 4 or 8")
    blocks = weight.float().reshape(weight.shape[0], -1, BLOCK)  # [outputs, blocks, 32]
    if bits == 4:
        low, high = blocks.amin(dim=-1), blocks.amax(dim=-1)
        minima, scales = low.half(), ((high - low) / 15).half()
        quants = _rounded(blocks - minima.float()[..., None], scales).clamp(0, 15)
        return pack_blocks(Blocks(quants.to(torch.uint8), scales, minima, 4, 0))
    scales = (blocks.abs().amax(dim=-1) / 127).half()
    quants = _rounded(blocks, scales).clamp(-127, 127) + 128
    return pack_blocks(Blocks(quants.to(torch.uint8), scales, None, 8, 128))


def _rounded(blocks: Tensor, scales: Tensor) -> Tensor:
    wide = scales.float()[..., None]
    return torch.where(wide > 0, blocks / wide, 0.0).round()


def pack_blocks(blocks: Blocks) -> PackedWeight:
    """Lays blocks out in tiles; outputs are padded to whole tiles with zero scales."""
    num_outputs, num_blocks, _ = blocks.quants.shape
    padded = -(-num_outputs // TILE) * TILE
    quants = _pad(blocks.quants, padded).reshape(padded // TILE, TILE, num_blocks, GROUPS, 4)
    ordered = quants.permute(0, 2, 3, 1, 4).reshape(padded // TILE, num_blocks, GROUPS, TILE * 4)
    if blocks.bits == 4:
        ordered = ordered[:, :, : GROUPS // 2] | (ordered[:, :, GROUPS // 2 :] << 4)
    return PackedWeight(
        quants=ordered.flatten(2).contiguous(),
        scales=_tiled(blocks.scales, padded),
        minima=None if blocks.minima is None else _tiled(blocks.minima, padded),
        num_outputs=num_outputs,
        num_inputs=num_blocks * BLOCK,
        bits=blocks.bits,
        zero_point=blocks.zero_point,
    )


def _pad(tensor: Tensor, num_outputs: int) -> Tensor:
    missing = num_outputs - tensor.shape[0]
    return torch.cat((tensor, tensor.new_zeros((missing, *tensor.shape[1:])))) if missing else tensor


def _tiled(values: Tensor, num_outputs: int) -> Tensor:
    """[outputs, blocks] to [tiles, blocks, 16]."""
    return _pad(values, num_outputs).reshape(-1, TILE, values.shape[1]).transpose(1, 2).contiguous()


def unpack_rows(packed: PackedWeight, rows: Tensor) -> Tensor:
    """The given rows (outputs) of a packed weight, dequantized: [rows, inputs] float32. rows: any integer dtype."""
    tiles, lanes = rows.long() // TILE, rows.long() % TILE
    _, num_blocks, block_bytes = packed.quants.shape
    shape = (len(lanes), num_blocks, block_bytes // (TILE * 4), TILE, 4)  # [rows, blocks, groups or half of them, 16, 4]
    quants = packed.quants[tiles].reshape(shape)
    index = lanes[:, None, None, None, None].expand(*quants.shape[:3], 1, 4)
    taken = quants.gather(3, index).squeeze(3)  # [rows, blocks, groups, 4]
    if packed.bits == 4:
        taken = torch.cat((taken & 0x0F, taken >> 4), dim=2)
    pick = torch.arange(len(lanes))
    scales = packed.scales[tiles][pick, :, lanes].float()  # [rows, blocks]
    weights = (taken.flatten(2).float() - packed.zero_point) * scales[..., None]
    if packed.minima is not None:
        weights = weights + packed.minima[tiles][pick, :, lanes].float()[..., None]
    return weights.flatten(1)


def _halves(raw: Tensor) -> Tensor:
    """Two bytes per block, [outputs, blocks, 2], to [outputs, blocks] float16."""
    return raw.contiguous().view(torch.float16).squeeze(-1)


def _nibbles(raw: Tensor) -> Tensor:
    """GGUF's 16 bytes hold inputs 0 to 15 in the low nibbles and 16 to 31 in the high ones."""
    return torch.cat((raw & 0x0F, raw >> 4), dim=-1)


def _split_q4_0(raw: Tensor) -> Blocks:
    return Blocks(_nibbles(raw[..., 2:]), _halves(raw[..., :2]), None, 4, 8)


def _split_q4_1(raw: Tensor) -> Blocks:
    return Blocks(_nibbles(raw[..., 4:]), _halves(raw[..., :2]), _halves(raw[..., 2:4]), 4, 0)


def _split_q8_0(raw: Tensor) -> Blocks:
    return Blocks(raw[..., 2:] ^ 0x80, _halves(raw[..., :2]), None, 8, 128)  # the sign bit flipped adds 128


GGUF_TYPES = {"Q4_0": (18, _split_q4_0), "Q4_1": (20, _split_q4_1), "Q8_0": (34, _split_q8_0)}  # bytes per block
