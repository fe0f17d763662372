"""The branches of a fork."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, get_args

from frontend import ir
from frontend.commands import Join, JoinMode
from frontend.errors import ProgramError

if TYPE_CHECKING:
    from frontend.state import ProgramState


class ProgramStateGroup:
    """A sequence of states. `group += x` appends the same to all; a list or a function of the index gives each its own."""

    def __init__(self, states: Sequence[ProgramState], src_state: ProgramState) -> None:
        self.states = list(states)
        self.src_state = src_state

    def join(self, mode: JoinMode = "gather_variable") -> None:
        """Wait for all branches (an async program does not wait here, but where it reads).

        `gather_variable`: each variable that is new in them becomes a list in the parent. `concate_and_append`: the parent
        goes on with their text. A branch that failed fails the parent.
        """
        if mode not in get_args(JoinMode):
            raise ProgramError(f"mode must be one of {', '.join(get_args(JoinMode))}, not {mode!r}")
        self.src_state._interpreter.submit(Join([state._interpreter for state in self.states], mode))
        if not self.src_state._is_async:
            self.src_state.sync()

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[ProgramState]:
        return iter(self.states)

    def __getitem__(self, index: int) -> ProgramState:
        return self.states[index]

    def __setitem__(self, index: int, state: ProgramState) -> None:
        """What `group[i] += x` does at its end; another state can not be put in."""
        if self.states[index] is not state:
            raise ProgramError("the states of a fork can not be replaced")

    def __iadd__(self, other: ir.Expr | str | Sequence[ir.Expr | str] | Callable[[int], ir.Expr | str]) -> ProgramStateGroup:
        for index, state in enumerate(self.states):
            if isinstance(other, ir.Expr | str):
                state += other
            else:
                state += other(index) if callable(other) else other[index]
        return self
