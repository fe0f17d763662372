"""Runs a program without a model, to see what it would say: its expressions, with arguments and variables left open."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from frontend import ir
from frontend.chat_template import ChatTemplate, Message
from frontend.errors import ProgramError, UnknownVariable
from frontend.recorder import Recorder

if TYPE_CHECKING:
    from frontend.function import Function


class StopTracing(Exception):
    """The constant beginning of the program is over."""


class TracerState(Recorder):
    """`nodes` are the expressions in order, with the roles spelt out as the text of `template`."""

    def __init__(self, arguments: Mapping[str, Any], template: ChatTemplate, *, stops_early: bool = False) -> None:
        super().__init__()
        self.nodes: list[ir.Expr] = []
        self.child_states: list[TracerState] = []
        self.ret_value: Any = None
        self.arguments = arguments
        self.template = template
        self._variables: dict[str, ir.Variable] = {}
        self._stops_early = stops_early
        self._numbers = itertools.count()
        self._messages: list[Message] = []

    def flatten_nodes(self) -> list[ir.Expr]:
        return list(self.nodes)

    def prefix(self) -> str:
        """The constant text that the program begins with."""
        constant = itertools.takewhile(lambda node: isinstance(node, ir.Text), self.nodes)
        return "".join(node.value for node in constant if isinstance(node, ir.Text))

    def get_var(self, name: str) -> Any:
        if name in self.arguments:
            return self.arguments[name]
        if name not in self._variables:
            raise UnknownVariable(name, f"the program has set no variable {name!r} so far")
        return self._variables[name]

    def set_var(self, name: str, value: Any) -> None:
        self.arguments = {**self.arguments, name: value}

    def __getitem__(self, name: str) -> Any:
        return self.get_var(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self.set_var(name, value)

    def __contains__(self, name: object) -> bool:
        return name in self._variables or name in self.arguments

    def fork(self, size: int = 1, position_ids_offset: list[int] | None = None) -> list[TracerState]:
        if self._stops_early:
            raise StopTracing
        states = [TracerState(self.arguments, self.template) for _ in range(size)]
        for state in states:
            state._variables, state._messages = dict(self._variables), list(self._messages)
        self.child_states += states
        return states

    def _append(self, expr: ir.Expr) -> None:
        match expr:
            case ir.Sequence(items):
                for item in items:
                    self._append(item)
            case ir.Turn(role, body):
                self._begin_role(role)
                if body is not None:
                    self._append(body)
                self._end_role(role)
            case ir.RoleBegin(role):
                self._begin_role(role)
            case ir.RoleEnd(role):
                self._end_role(role)
            case _:
                self._append_node(expr)

    def _append_node(self, expr: ir.Expr) -> None:
        if self._stops_early and not isinstance(expr, ir.Text):
            raise StopTracing
        self.nodes.append(expr)
        if isinstance(expr, ir.Gen | ir.Select | ir.ScopeBegin):
            name = expr.name or f"unnamed_{next(self._numbers)}"
            self._variables[name] = ir.Variable(name, expr)

    def _begin_role(self, role: str) -> None:
        default = self.template.default_system_prompt
        if not self._messages and role != "system" and default:
            self._append(ir.Turn("system", ir.Text(default)))
        self._append_node(ir.Text(self.template.get_prefix_and_suffix(role, self._messages)[0]))

    def _end_role(self, role: str) -> None:
        self._append_node(ir.Text(self.template.get_prefix_and_suffix(role, self._messages)[1]))
        self._messages.append({"role": role, "content": ""})


_tracer: ContextVar[TracerState | None] = ContextVar("tracer", default=None)


def current_tracer() -> TracerState | None:
    """Of the program that is being traced, if one is."""
    return _tracer.get()


def trace(function: Function, arguments: Mapping[str, Any], template: ChatTemplate) -> TracerState:
    """Arguments that are not given stay open. Raises `ProgramError` where the program needs the value of one."""
    tracer = TracerState(_with_open(function, arguments), template)
    with _tracing(tracer):
        tracer.ret_value = function.func(tracer, **tracer.arguments)
    return tracer


def prefix_of(function: Function, template: ChatTemplate) -> str:
    """The constant text that every run of the program begins with."""
    tracer = TracerState(_with_open(function, {}), template, stops_early=True)
    try:
        with _tracing(tracer):
            function.func(tracer, **tracer.arguments)
    except (StopTracing, ProgramError, TypeError, AttributeError, UnknownVariable):
        pass  # from here on it depends on an argument
    return tracer.prefix()


def _with_open(function: Function, arguments: Mapping[str, Any]) -> dict[str, Any]:
    opened = {name: ir.Argument(name) for name in function.arg_names if name not in arguments}
    return {**opened, **arguments, **function.bind_arguments}


@contextmanager
def _tracing(tracer: TracerState) -> Iterator[None]:
    outer = _tracer.get()
    if outer is not None:
        outer.child_states.append(tracer)
    token = _tracer.set(tracer)
    try:
        yield
    finally:
        _tracer.reset(token)
