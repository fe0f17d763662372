"""Loads the compiled C kernels and hands out their functions, called through ctypes without the GIL.

Where they cannot be had, the torch references serve and one line in the log says why and what that costs. Inside `recording`
calls are written down and not made.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch

from kernels import build

FLOATS = frozenset((torch.bfloat16, torch.float32))

Function = Callable[[bytes], int]
Call = tuple[str, bytes]
"""The name of a function and its struct."""

logger = logging.getLogger(__name__)

_record: ContextVar[list[Call] | None] = ContextVar("record", default=None)


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


def function(name: str) -> Function | None:
    """The C function `callboard_<name>`, or None where there is no compiled library.

    It takes one struct of 8-byte fields (pointers, int64 and double), packed by `struct`: half the cost of as many ctypes
    arguments, and a call is a value that can be kept and made again. It returns 0, or 1 when it had no memory to work in.
    """
    calls = _record.get()
    found = compiled_function(name)
    return found if calls is None or found is None else functools.partial(_note, calls, name)


@contextlib.contextmanager
def recording() -> Iterator[list[Call]]:
    """On this thread, `function` gives functions that only add their call to the list. The structs point to live tensors."""
    calls: list[Call] = []
    token = _record.set(calls)
    try:
        yield calls
    finally:
        _record.reset(token)


def _note(calls: list[Call], name: str, arguments: bytes) -> int:
    calls.append((name, arguments))
    return 0


def address(name: str) -> int:
    """Where `callboard_<name>` lies, for C to call. Only where there is a compiled library."""
    compiled = library()
    assert compiled is not None, "there is no library"
    found = ctypes.cast(compiled[f"callboard_{name}"], ctypes.c_void_p).value
    assert found is not None, "a function has an address"
    return found


@functools.cache
def compiled_function(name: str) -> Function | None:
    """As `function`, and always the one that computes."""
    compiled = library()
    if compiled is None:
        return None
    found = compiled[f"callboard_{name}"]
    found.argtypes = [ctypes.c_char_p]
    found.restype = ctypes.c_int64
    return found
