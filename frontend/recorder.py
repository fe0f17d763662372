"""What can be appended to, and how: the part of a state that a running and a traced program have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Self, overload

from frontend import ir


class Recorder(ABC):
    """`s += x` appends text or an expression; the roles also append by themselves."""

    def __init__(self) -> None:
        self._returned: list[ir.Expr] = []

    @abstractmethod
    def _append(self, expr: ir.Expr) -> None:
        """Never waits."""

    def __iadd__(self, other: ir.Expr | str) -> Self:
        """Raises `TypeError` for what is neither text nor an expression, and `ValueError` for None."""
        items = tuple(item for item in ir.items_of(other) if not self._was_returned(item))
        if items:
            self._append(items[0] if len(items) == 1 else ir.Sequence(items))
        return self

    @overload
    def system(self, expr: None = None) -> AbstractContextManager[None]: ...
    @overload
    def system(self, expr: ir.Expr | str) -> ir.Expr: ...
    def system(self, expr: ir.Expr | str | None = None) -> ir.Expr | AbstractContextManager[None]:
        """With an expression: append it as a turn. Without: a context whose text is the turn."""
        return self._turn("system", expr)

    @overload
    def user(self, expr: None = None) -> AbstractContextManager[None]: ...
    @overload
    def user(self, expr: ir.Expr | str) -> ir.Expr: ...
    def user(self, expr: ir.Expr | str | None = None) -> ir.Expr | AbstractContextManager[None]:
        return self._turn("user", expr)

    @overload
    def assistant(self, expr: None = None) -> AbstractContextManager[None]: ...
    @overload
    def assistant(self, expr: ir.Expr | str) -> ir.Expr: ...
    def assistant(self, expr: ir.Expr | str | None = None) -> ir.Expr | AbstractContextManager[None]:
        return self._turn("assistant", expr)

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """All text that is appended inside is the variable `name`."""
        self._append(ir.ScopeBegin(name))
        yield
        self._append(ir.ScopeEnd(name))

    def _turn(self, role: str, expr: ir.Expr | str | None) -> ir.Expr | AbstractContextManager[None]:
        if expr is None:
            return self._role_scope(role)
        turn = ir.Turn(role, ir.as_expr(expr))
        self._append(turn)
        self._returned.append(turn)
        return turn

    @contextmanager
    def _role_scope(self, role: str) -> Iterator[None]:
        self._append(ir.RoleBegin(role))
        yield
        self._append(ir.RoleEnd(role))

    def _was_returned(self, item: ir.Expr) -> bool:
        """Whether `item` is a turn that was appended when it was made: `s += s.user(x)` appends it once."""
        for index, returned in enumerate(self._returned):
            if returned is item:
                del self._returned[index]
                return True
        return False
