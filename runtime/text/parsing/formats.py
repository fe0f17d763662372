"""Finds the format of a model's tool calls and of its reasoning: by name, or by what its chat template has in it."""

from __future__ import annotations

from typing import cast

from runtime import extensions
from runtime.errors import ConfigError
from runtime.text.parsing.call_format import CallFormat
from runtime.text.parsing.reasoning_format import ReasoningFormat

TOOL_CALLS = "runtime.text.tool_calls"
REASONING = "runtime.text.reasoning"

AUTO, NONE = "auto", "none"


def call_format(name: str) -> CallFormat:
    """Raises `ConfigError` if there is none."""
    return cast(CallFormat, extensions.load(TOOL_CALLS, _file_name(TOOL_CALLS, name)))


def reasoning_format(name: str) -> ReasoningFormat:
    """Raises `ConfigError` if there is none."""
    return cast(ReasoningFormat, extensions.load(REASONING, _file_name(REASONING, name)))


def chosen(package: str, name: str | None, chat_template: str | None) -> str | None:
    """The format that the operator chose; `auto`: the one that the template has most in common with, if any."""
    if name in (None, NONE):
        return None
    return name if name != AUTO else _by_template(package, chat_template or "")


def _by_template(package: str, chat_template: str) -> str | None:
    found: dict[str, int] = {}
    for name in extensions.names(package):
        marks: tuple[str, ...] = extensions.load(package, name).TEMPLATE_MARKS
        if marks and all(mark in chat_template for mark in marks):
            found[name] = sum(map(len, marks))
    return max(found, key=found.__getitem__, default=None)


def _file_name(package: str, name: str) -> str:
    """The file of the format that is called `name`, or has it for an alias; dashes are as good as underscores."""
    wanted = name.replace("_", "-")
    for candidate in extensions.names(package):
        aliases: tuple[str, ...] = extensions.load(package, candidate).ALIASES
        if wanted in (alias.replace("_", "-") for alias in aliases):
            return candidate
    return wanted


def check(tool_call_parser: str | None, reasoning_parser: str | None) -> None:
    """Raise `ConfigError` that names the flag of the first format that does not exist."""
    try:
        if tool_call_parser not in (None, AUTO, NONE):
            call_format(tool_call_parser)
        if reasoning_parser not in (None, AUTO, NONE):
            reasoning_format(reasoning_parser)
    except ConfigError as error:
        raise ConfigError(f"--tool-call-parser and --reasoning-parser: {error}") from None
