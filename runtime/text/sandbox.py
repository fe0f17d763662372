"""The environment that chat templates run in: jinja2's immutable sandbox with transformers' functions and limits on size.

No template can reach Python or change its data. The limits are for what clients can drive: numbers and texts that a template
repeats, loops over or prints. A template that is hostile itself can still waste memory (`s ~ s` in a loop), so its source is
never a client's. jinja2 itself keeps one `range` under 100,000 and refuses attributes that lead into the interpreter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from runtime.clock import Clock

MAX_OUTPUT_CHARS = 2**24
MAX_LOOP_STEPS = 200_000
"""How many steps all `range` loops of one render may have together; nested loops multiply."""
MAX_POWER_BITS = 4096

TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What a template raises that meets data it was not written for."""


def compile_template(source: str, clock: Clock) -> Template:
    """Raises one of `TEMPLATE_ERRORS`."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now(clock),
        "dict": _dict,
        "namespace": _Namespace,
    }
    return environment.from_string(source)


def render(template: Template, variables: dict[str, Any]) -> str:
    """Raises one of `TEMPLATE_ERRORS`, also when the output or the loops are too long."""
    pieces: list[str] = []
    num_chars = 0
    for piece in template.generate({**variables, "range": _LoopBudget().range}):
        num_chars += len(piece)
        _check_length(num_chars)
        pieces.append(piece)
    return "".join(pieces)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Also bounds what one operator can make: `'x' * 10**9` and `9 ** 9 ** 9` are short to write."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _check_repetition(left, right)
            _check_repetition(right, left)
        elif isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_POWER_BITS:
            raise SecurityError("the template makes too large a number")
        return super().call_binop(context, operator, left, right)


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's text for training; here its body is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _LoopBudget:
    """Steps that the `range` loops of one render have left."""

    def __init__(self) -> None:
        self._num_left = MAX_LOOP_STEPS

    def range(self, *bounds: int) -> range:
        steps = safe_range(*bounds)
        self._num_left -= len(steps)
        if self._num_left < 0:
            raise SecurityError(f"the template loops more than {MAX_LOOP_STEPS} times")
        return steps


class _Namespace(Namespace):
    """A namespace without names that reach into Python."""

    def __init__(*arguments: Any, **attributes: Any) -> None:
        for name in dict(*arguments[1:], **attributes):
            _check_name(name)
        Namespace.__init__(*arguments, **attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not have a field {name!r}")


def _check_repetition(value: object, times: object) -> None:
    if isinstance(value, str | list | tuple) and isinstance(times, int):
        _check_length(len(value) * times)


def _check_length(num_chars: int) -> None:
    if num_chars > MAX_OUTPUT_CHARS:
        raise SecurityError(f"the template makes more than {MAX_OUTPUT_CHARS} characters")


def _dict(*arguments: Iterable[Any], **entries: Any) -> dict[Any, Any]:
    return dict(*arguments, **entries)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(clock: Clock) -> Callable[[str], str]:
    def strftime_now(format: str) -> str:
        return datetime.fromtimestamp(clock.wall()).strftime(format)

    return strftime_now


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
