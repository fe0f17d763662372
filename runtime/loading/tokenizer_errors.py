"""Turns the errors of the `tokenizers` library into `LoadError`.

The library raises the bare class `Exception` for everything it finds wrong in a file. Catching that would also catch every
mistake of ours, so only errors of exactly that class are taken for the library's.
"""

from __future__ import annotations

from types import TracebackType

from runtime.errors import LoadError


class library_errors_as:  # noqa: N801 - used like a function
    """`with library_errors_as("what is wrong"):` raises `LoadError("what is wrong: <the library's reason>")`."""

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is Exception:
            reason = " ".join(str(error).split())
            raise LoadError(f"{self._problem}: {reason}") from error
