"""Finds on the device which row a program works for, so that no length has to be known on the host."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_of_token(token, query_starts, num_rows):
    """The row that owns a token, and num_rows if none does. Where every row has one token it is found at once."""
    guess = tl.minimum(token, num_rows - 1)
    hit = (tl.load(query_starts + guess) <= token) & (tl.load(query_starts + guess + 1) > token)
    low = tl.where(hit, guess, 0)
    high = tl.where(hit, guess, num_rows)
    while low < high:
        middle = (low + high) // 2
        ends_before = tl.load(query_starts + middle + 1) <= token
        low = tl.where(ends_before, middle + 1, low)
        high = tl.where(ends_before, high, middle)
    return low


@triton.jit
def row_of_block(block, query_starts, num_rows, BLOCK_Q: tl.constexpr):
    """The row that has a block of BLOCK_Q queries, and which of its blocks that is; num_rows if there is no such block.

    Row r's first block is query_starts[r] // BLOCK_Q + r: room enough for the rows before it, without a sum over them.
    A row may have fewer blocks than the room it has.
    """
    low = 0
    high = num_rows
    while low < high:
        middle = (low + high) // 2
        comes_after = tl.load(query_starts + middle + 1) // BLOCK_Q + middle + 1 <= block
        low = tl.where(comes_after, middle + 1, low)
        high = tl.where(comes_after, high, middle)
    return low, block - tl.load(query_starts + low) // BLOCK_Q - low
