"""What a program records: small immutable expressions, executed in order by an interpreter.

`a + b` makes a `Sequence` of expressions and strings. Expressions are compared by identity: the same one may be appended
twice, and then counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from frontend.errors import ProgramError

if TYPE_CHECKING:
    from frontend.choices import ChoicesSamplingMethod
    from frontend.sampling import Sampling

REGEX_INT = r"[-+]?[0-9]+[ \n]*"
REGEX_FLOAT = r"[-+]?[0-9]*\.?[0-9]+[ \n]*"
REGEX_BOOL = r"(True|False)"
REGEX_STR = r"\"[\w\d\s]*\""


class Expr:
    """Base of all expressions."""

    __slots__ = ()

    def __add__(self, other: Expr | str) -> Sequence:
        return Sequence((*items_of(self), *items_of(other))) if isinstance(other, Expr | str) else NotImplemented

    def __radd__(self, other: Expr | str) -> Sequence:
        return Sequence((*items_of(other), *items_of(self))) if isinstance(other, Expr | str) else NotImplemented


@dataclass(frozen=True, slots=True, eq=False)
class Sequence(Expr):
    """One after the other."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Text(Expr):
    """Constant text."""

    value: str


@dataclass(frozen=True, slots=True, eq=False)
class Gen(Expr):
    """Let the model continue; the text it adds is the variable `name`. None in `sampling` means: as `run` says."""

    name: str | None
    sampling: Sampling


@dataclass(frozen=True, slots=True, eq=False)
class Select(Expr):
    """Append the most likely one of `choices`."""

    name: str | None
    choices: tuple[str, ...]
    temperature: float
    method: ChoicesSamplingMethod


@dataclass(frozen=True, slots=True, eq=False)
class Image(Expr):
    """A picture: a path, its bytes, or an object with PIL's `save`."""

    source: Any


@dataclass(frozen=True, slots=True, eq=False)
class Video(Expr):
    """`num_frames` frames, evenly spaced, of the film at `path`."""

    path: str
    num_frames: int


@dataclass(frozen=True, slots=True, eq=False)
class RoleBegin(Expr):
    role: str


@dataclass(frozen=True, slots=True, eq=False)
class RoleEnd(Expr):
    role: str


@dataclass(frozen=True, slots=True, eq=False)
class Turn(Expr):
    """A whole turn of a chat: begin, `body`, end."""

    role: str
    body: Expr | None


@dataclass(frozen=True, slots=True, eq=False)
class ScopeBegin(Expr):
    """From here on all text belongs to the variable `name`."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class ScopeEnd(Expr):
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class SeparateReasoning(Expr):
    """Take what a reasoning model thought out of the text of `body`'s generations."""

    body: Expr
    model_type: str


@dataclass(frozen=True, slots=True, eq=False)
class Argument(Expr):
    """An argument of a program that is traced: its value is not known, and asking for it is an error."""

    name: str

    def _unknown(self, *_: object) -> NoReturn:
        raise ProgramError(f"the value of argument {self.name!r} is not known while the program is traced")

    __str__ = __format__ = __len__ = __getitem__ = __iter__ = __int__ = __float__ = __bool__ = _unknown


@dataclass(frozen=True, slots=True, eq=False)
class Variable(Expr):
    """A variable of a program that is traced; `source` is the expression that sets it."""

    name: str
    source: Expr


def as_expr(value: Expr | str) -> Expr:
    """Raises `TypeError` for anything that can not be appended to a state, and `ValueError` for None, as SGLang does."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, str):
        return Text(value)
    if value is None:
        raise ValueError("Tried to append None to state.")
    raise ProgramError(f"only strings and expressions can be appended to a state, not {type(value).__name__}")


def items_of(value: Expr | str) -> tuple[Expr, ...]:
    """The expressions of a sequence, or the one expression."""
    expr = as_expr(value)
    return expr.items if isinstance(expr, Sequence) else (expr,)


def children_of(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside."""
    if isinstance(expr, Sequence):
        return expr.items
    if isinstance(expr, Turn):
        return () if expr.body is None else (expr.body,)
    return (expr.body,) if isinstance(expr, SeparateReasoning) else ()


def walk(expr: Expr) -> Iterator[Expr]:
    """`expr` and everything inside it, in the order of execution."""
    yield expr
    for child in children_of(expr):
        yield from walk(child)


def names_set_by(expr: Expr) -> Iterator[str | None]:
    """The variables that executing `expr` will set. A generation without a name sets the variable None."""
    for inner in walk(expr):
        if isinstance(inner, Gen | Select | ScopeBegin):
            yield inner.name


def asks_the_model(expr: Expr) -> bool:
    return any(isinstance(inner, Gen | Select) for inner in walk(expr))
