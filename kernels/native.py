"""Loads the compiled C kernels and hands out their functions, called through ctypes without the GIL.

Where they cannot be had, the torch references serve and one line in the log says why and what that costs.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable

import torch

from kernels import build

FLOATS = frozenset((torch.bfloat16, torch.float32))

logger = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, built on first use; None where they cannot be had."""
    try:
        compiled = ctypes.CDLL(str(build.build()))
    except (build.BuildError, OSError) as error:
        logger.warning("C kernels are not available: %s; torch serves in their place, about 8 times slower per step", error)
        return None
    share_work(compiled, torch.get_num_threads())
    return compiled


def share_work(compiled: ctypes.CDLL, num_threads: int) -> None:
    compiled.callboard_set_num_threads(ctypes.byref(ctypes.c_int64(num_threads)))


def set_num_threads(num_threads: int) -> None:
    """Lets the C kernels use this many threads, the caller's included; it starts at torch's number. For all callers.

    They are threads of our own, so where every layer runs in C, torch.set_num_threads(1) keeps torch's from idling beside
    them. Results do not depend on it.
    """
    compiled = library()
    if compiled is not None:
        share_work(compiled, num_threads)


@functools.cache
def function(name: str) -> Callable[[bytes], int] | None:
    """The C function `callboard_<name>`, or None where there is no compiled library.

    It takes one struct of 8-byte fields (pointers, int64 and double), packed by `struct`: half the cost of as many ctypes
    arguments, and a call is a value that can be kept and made again. It returns 0, or 1 when it had no memory to work in.
    """
    compiled = library()
    if compiled is None:
        return None
    found = compiled[f"callboard_{name}"]
    found.argtypes = [ctypes.c_char_p]
    found.restype = ctypes.c_int64
    return found
