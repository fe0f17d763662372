"""Pythonic calls (Llama 4, and Llama 3.2 when asked): a list of calls with keyword arguments, `[f(a=1), g(b="x")]`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.markers import Markers
from runtime.text.parsing.python_grammar import grammar_of_calls
from runtime.text.parsing.python_literal import PythonLiteral
from runtime.text.parsing.tools import MAX_NAME_CHARS, Tool, Tools

ALIASES = ("llama4",)
TEMPLATE_MARKS = ("[func_name1(params_name1=params_value1",)
KEEPS_SPECIAL_TOKENS = True

BEGIN, END = "<|python_start|>", "<|python_end|>"
_BEGINS = Markers("[", BEGIN, END)
_NAME = re.compile(r"[\w.-]*")


def read(cursor: Cursor, tools: Tools) -> Reading[None]:
    while marker := (yield from cursor.text_until(_BEGINS)):
        if marker == END:
            cursor.settle(cursor.follows_call)
            continue
        if marker == BEGIN:
            yield from cursor.blanks()
        is_list = marker == "[" or (yield from cursor.literal("["))
        cursor.settle(is_list and (yield from _read_calls(cursor, tools)))


def _read_calls(cursor: Cursor, tools: Tools) -> Reading[bool]:
    """What follows the bracket. False if it breaks; the calls before that stand."""
    while (yield from _read_call(cursor, tools)):
        yield from cursor.blanks()
        if not (yield from cursor.literal(",")):
            return (yield from cursor.ending("]"))
        yield from cursor.blanks()
    return False


def _read_call(cursor: Cursor, tools: Tools) -> Reading[bool]:
    """A call begins when it is clear that its arguments have names, or that there are none."""
    yield from cursor.blanks()
    name = yield from cursor.run(_NAME, MAX_NAME_CHARS)
    if not tools.has(name) or not (yield from cursor.literal("(")):
        return False
    yield from cursor.blanks()
    if (yield from cursor.literal(")")):
        cursor.begin_call(name)
        cursor.emit_arguments("{}")
        return True
    key = yield from _read_key(cursor)
    if key is None:
        return False
    cursor.begin_call(name)
    return (yield from _read_arguments(cursor, key))


def _read_key(cursor: Cursor) -> Reading[str | None]:
    key = yield from cursor.run(_NAME, MAX_NAME_CHARS)
    yield from cursor.blanks()
    return key if key.isidentifier() and (yield from cursor.literal("=")) else None


def _read_arguments(cursor: Cursor, key: str | None) -> Reading[bool]:
    """From behind the first `key=` to the closing bracket. No key may come twice."""
    keys: set[str] = set()
    opening = "{"
    while key is not None and key not in keys:
        keys.add(key)
        cursor.drop()
        cursor.emit_arguments(f'{opening}"{key}": ')
        if not (yield from PythonLiteral(cursor).read()):
            return False
        yield from cursor.blanks()
        has_more = yield from cursor.literal(",")
        yield from cursor.blanks()
        if (yield from cursor.literal(")")):
            cursor.emit_arguments("}")
            return True
        key = (yield from _read_key(cursor)) if has_more else None
        opening = ", "
    return False


def grammar(tools: Sequence[Tool], parallel: bool) -> tags.Format:
    return {"type": "grammar", "grammar": grammar_of_calls(tools, parallel)}
