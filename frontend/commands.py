"""What an interpreter is told between the expressions of its program. Each is executed once, or abandoned after a failure."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from frontend.errors import FrontendError
from frontend.record import Record

if TYPE_CHECKING:
    from frontend.interpreter import Interpreter

JoinMode = Literal["gather_variable", "concate_and_append"]


class Command(ABC):
    """Base of all commands."""

    @abstractmethod
    async def execute(self, interpreter: Interpreter) -> None: ...

    def abandon(self, cause: BaseException) -> None:
        """The program failed before this was executed."""
        return None


@dataclass(eq=False)
class Mark(Command):
    """Set `done` when this is reached, or when it never will be."""

    done: Future[None] = field(default_factory=Future)

    async def execute(self, interpreter: Interpreter) -> None:
        self.done.set_result(None)

    def abandon(self, cause: BaseException) -> None:
        self.done.set_result(None)


@dataclass(eq=False)
class End(Command):
    """The program has returned: nothing comes any more."""

    async def execute(self, interpreter: Interpreter) -> None:
        interpreter.is_finished = True


@dataclass(eq=False)
class Fork(Command):
    """Give `children` what has been said so far, after the backend has computed it, so that they share its prefix."""

    children: Sequence[Future[Record]]

    async def execute(self, interpreter: Interpreter) -> None:
        if len(self.children) > 1:
            await interpreter.execution.warm()
        for child in self.children:
            child.set_result(interpreter.record.clone())

    def abandon(self, cause: BaseException) -> None:
        for child in self.children:
            child.set_exception(cause)


@dataclass(eq=False)
class Adopt(Command):
    """Wait for what the parent has said, and go on from there. Variables that were set here before win."""

    parent: Future[Record]

    async def execute(self, interpreter: Interpreter) -> None:
        record = await asyncio.wrap_future(self.parent)
        record.variables.update(interpreter.record.variables)
        interpreter.execution.record = record


@dataclass(eq=False)
class Join(Command):
    """Wait for `children` and take over what they have: new variables, each as a list, or their text, one after the other."""

    children: Sequence[Interpreter]
    mode: JoinMode

    async def execute(self, interpreter: Interpreter) -> None:
        for index, child in enumerate(self.children):
            await asyncio.wrap_future(child.settled())
            if child.failure is not None:
                raise FrontendError(f"branch {index} of {len(self.children)} failed: {child.failure}") from child.failure
            child.end()
        records = [child.record for child in self.children]
        if self.mode == "concate_and_append":
            interpreter.record.fill("".join(record.new_text for record in records))
        else:
            gather_variables(interpreter.record, records)


def gather_variables(parent: Record, children: Sequence[Record]) -> None:
    """Each variable that is new in a child becomes a list in `parent`, in the order of the children that have it."""
    gathered: dict[str, list[object]] = {}
    for child in children:
        for name in child.new_variables(parent):
            gathered.setdefault(name, []).append(child.variables[name])
    parent.variables.update(gathered)
