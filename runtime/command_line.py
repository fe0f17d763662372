"""The command line, generated from the `Config` tree: one flag per leaf, one argument group per section."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec

from runtime.config import Config, Section, resolve
from runtime.errors import ConfigError


def parse(arguments: Sequence[str], prog: str = "python -m runtime.serve") -> Config:
    """The resolved configuration. Raises `ConfigError` on an unknown flag or an impossible value."""
    parser = _Parser(prog=prog, description="Serve a large language model.")
    for name, section in _hints(Config).items():
        _add_section(parser, name, section)
    values = vars(parser.parse_args(arguments))
    sections = {
        name: section(**{field: _frozen(values[field]) for field in section.__struct_fields__ if field in values})
        for name, section in _hints(Config).items()
    }
    return resolve(Config(**sections))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `{self.prog} --help` lists the flags")


def _hints(section: type) -> dict[str, Any]:
    return get_type_hints(section, include_extras=True)


def _add_section(parser: argparse.ArgumentParser, name: str, section: type[Section]) -> None:
    group = parser.add_argument_group(name)
    defaults = {field.name: field.default for field in msgspec.structs.fields(section)}
    for field, annotated in _hints(section).items():
        kind, meta = get_args(annotated)
        _add_flag(group, field, kind, meta, defaults[field])


def _add_flag(group: argparse._ArgumentGroup, field: str, kind: Any, meta: msgspec.Meta, default: Any) -> None:
    names = ["--" + field.replace("_", "-"), *(meta.extra or {})["aliases"]]
    # An absent flag stays absent, so that the defaults are written down only once, in the Config tree.
    settings: dict[str, Any] = {"dest": field, "default": argparse.SUPPRESS, "help": _help(meta, default)}
    kind = _without_none(kind)
    if kind is bool:
        group.add_argument(*names, action="store_true", **settings)
    elif get_origin(kind) is tuple:
        group.add_argument(*names, action="append", metavar=field.upper(), **settings)
    elif get_origin(kind) is Literal:
        group.add_argument(*names, choices=get_args(kind), **settings)
    else:
        group.add_argument(*names, type=kind, metavar=kind.__name__.upper(), **settings)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (member for member in get_args(kind) if member is not NoneType)
    return kind.__origin__ if get_origin(kind) is Annotated else kind


def _help(meta: msgspec.Meta, default: Any) -> str:
    text = (meta.description or "").replace("%", "%%")
    return text if default in (None, False, ()) else f"{text} (default: {default})"
