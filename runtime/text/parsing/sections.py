"""Sections: several calls between markers of their own."""

from __future__ import annotations

import re
from collections.abc import Callable

from runtime.text.parsing.cursor import Cursor, Reading

NAME = re.compile(r"[^\s<>{}\[\]\"]*")
"""A name that markup follows."""


def read_section(
    cursor: Cursor, read_call: Callable[[], Reading[bool]], begin: str, end: str, *, is_open: bool
) -> Reading[None]:
    """Calls that `begin` begins, up to `end`. `is_open`: the first `begin` was read already.

    A call that breaks breaks its section off; those before it stand.
    """
    yield from cursor.blanks()
    while is_open or (yield from cursor.literal(begin)):
        is_open = False
        is_call = yield from read_call()
        cursor.settle(is_call)
        if not is_call:
            return
        yield from cursor.blanks()
    cursor.settle((yield from cursor.ending(end)) if cursor.follows_call else False)
