"""The EBNF grammar of a list of pythonic calls.

Names, required arguments and the types and choices of each argument are those of the schemas; arguments come in the order of
the schema, and what is inside lists and dicts is any literal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from runtime.text.parsing.tools import Tool, types_of

_LITERALS = r"""
value ::= string | number | boolean | null | array | object
string ::= "\"" ([^"\\\n] | "\\" ["\\'nrt])* "\""
integer ::= "-"? ("0" | [1-9] [0-9]*)
number ::= integer ("." [0-9]+)? ([eE] [+-]? [0-9]+)?
boolean ::= "True" | "False"
null ::= "None"
array ::= "[" (value (", " value)*)? "]"
object ::= "{" (string ": " value (", " string ": " value)*)? "}"
"""


def grammar_of_calls(tools: Sequence[Tool], parallel: bool) -> str:
    """One call of one of `tools` in brackets, or, with `parallel`, one or more."""
    names = " | ".join(f"tool{index}" for index in range(len(tools)))
    more = ' (", " call)*' if parallel else ""
    rules = [f'root ::= "[" call{more} "]"', f"call ::= {names}"]
    for index, tool in enumerate(tools):
        rules += _rules_of_tool(f"tool{index}", tool)
    return "\n".join(rules) + _LITERALS


def _rules_of_tool(rule: str, tool: Tool) -> list[str]:
    """`first_i`: arguments from the i-th on, with none before; `rest_i`: with some before."""
    parameters = tool.parameters or {}
    properties = parameters.get("properties")
    arguments = list(properties.items()) if isinstance(properties, Mapping) else []
    required = parameters.get("required") or ()
    rules = [f'{rule} ::= {_text(tool.name + "(")} {rule}_first_0 ")"']
    for index, (key, schema) in enumerate(arguments):
        argument = f"{_text(key + '=')} ({_value(schema)}) {rule}_rest_{index + 1}"
        skips = "" if key in required else f" | {rule}_{{}}_{index + 1}"
        rules.append(f"{rule}_first_{index} ::= {argument}" + skips.format("first"))
        rules.append(f'{rule}_rest_{index} ::= ", " {argument}' + skips.format("rest"))
    return [*rules, f'{rule}_first_{len(arguments)} ::= ""', f'{rule}_rest_{len(arguments)} ::= ""']


def _value(schema: Any) -> str:
    choices = schema.get("enum") if isinstance(schema, Mapping) else None
    if isinstance(choices, list) and choices and all(isinstance(choice, str | int | None) for choice in choices):
        return " | ".join(_text(_literal(choice)) for choice in choices)
    return " | ".join(sorted(types_of(schema))) or "value"


def _literal(value: str | int | None) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, str) else repr(value)


def _text(text: str) -> str:
    """A terminal. JSON's string escapes are those of the grammar."""
    return msgspec.json.encode(text).decode()
