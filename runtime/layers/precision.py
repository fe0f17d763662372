"""Which number type the model computes in, from the flag `--dtype` and what the processor does well."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)

NAMES = {
    "half": torch.float16,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float": torch.float32,
    "float32": torch.float32,
}


def has_onednn() -> bool:
    """Whether this build of torch has oneDNN, which torch still calls by its old name."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def fast_dtype() -> torch.dtype:
    """bfloat16 where oneDNN has instructions for it, which halves the bytes of a weight; float32 elsewhere."""
    has_bfloat16 = has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def compute_dtype(name: str) -> torch.dtype:
    """The type for a value of `--dtype`. float16 has no fast path on CPUs: such a model runs in `fast_dtype()`."""
    if name == "auto":
        return fast_dtype()
    dtype = NAMES[name]
    if dtype is torch.float16:
        dtype = fast_dtype()
        log.warning("float16 is slow on a CPU: computing in %s instead", str(dtype).removeprefix("torch."))
    return dtype


def device_dtype(name: str, *, has_bfloat16: bool) -> torch.dtype:
    """The type for a value of `--dtype` on a GPU. "auto" is bfloat16, or float16 on one too old for it."""
    if name == "auto":
        return torch.bfloat16 if has_bfloat16 else torch.float16
    return NAMES[name]
