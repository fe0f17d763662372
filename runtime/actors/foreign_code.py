"""Runs code that is not ours, such as a class that the operator named: whatever it raises becomes a value.

It is here because this package is the only one that may catch everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def outcome(call: Callable[[], _T]) -> _T | Exception:
    """What `call` returns, or what it raises. An exit or an interrupt is passed on."""
    try:
        return call()
    except Exception as error:
        return error
